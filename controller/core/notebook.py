"""What a notebook shows for a record: one small table of escaped text."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

_MOST_CHARACTERS = 300
"""A longer value is cut there."""


def html_table(title: str, rows: Iterable[tuple[str, object]]) -> str:
    """A table with a title, a row for each name and value.

    >>> html_table("a run", [("tokens", 3)])
    '<table><caption>a run</caption><tr><th scope="row">tokens</th><td>3</td></tr></table>'
    """
    cells = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(_short(value))}</td></tr>' for name, value in rows
    )
    return f"<table><caption>{escape(title)}</caption>{cells}</table>"


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]} ..."
