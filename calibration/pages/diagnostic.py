"""The page of a diagnostic: a title, what was found in words, figures, and tables of all numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from reasonctl.controller import ControllerError
from reasonctl.probes.files import check_target, write_whole

from .template import page_template


@dataclass(frozen=True)
class PageTable:
    """A table of a page."""

    title: str
    """Its heading."""
    head: Sequence[str]
    """The names of its columns."""
    rows: Sequence[Sequence[str]]
    """Its cells."""


@dataclass(frozen=True)
class PageFigure:
    """A figure of a page."""

    svg: str
    """An <svg> element in the page's colours, as `figures` makes it."""
    caption: str
    """What it shows."""

    @property
    def markup(self) -> Markup:
        """The element, which is ours, for the template."""
        return Markup(self.svg)


def check_out(path: str, force: bool) -> None:
    """Raise ControllerError, before any work, for a file that is no page or can't be written."""
    if not path.endswith(".html"):
        raise ControllerError(f"--out is {path!r}; it is a page and must end in .html")
    check_target(path, force)


def write_diagnostic(
    path: Path, title: str, found: Sequence[str], figures: Sequence[PageFigure], tables: Sequence[PageTable]
) -> None:
    """Write the page. Everything but the figures is escaped; the same numbers give the same bytes.

    Args:
        path: The file.
        title: The page's heading.
        found: Paragraphs; the first says the most.
        figures: The figures, in order.
        tables: The tables, in order.

    Raises:
        ControllerError: The file can't be written.
    """
    page = page_template("diagnostic.html.jinja").render(title=title, found=found, figures=figures, tables=tables)
    write_whole(path, page.encode())
