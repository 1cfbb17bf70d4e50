"""The page of a store: which promise stands, what its audits say, what was saved."""

from __future__ import annotations

from ..learning.status import StoreStatus
from .template import page_template


def render_status(name: str, status: StoreStatus) -> str:
    """The page, as HTML that needs no network. name: the store's."""
    first, *lines = status.lines()
    return page_template("status.html.jinja").render(name=name, first=first, lines=lines, audits=status.audits) + "\n"
