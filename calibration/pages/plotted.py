"""Writes a matplotlib figure by the suffix of its file: as a figure, or as a page around it."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.figure import Figure

from reasonctl.controller import ControllerError

SUFFIXES = (".html", ".svg", ".png", ".pdf")


def check_figure(path: str) -> None:
    """Raise ControllerError for a file that is neither a page nor a figure."""
    if Path(path).suffix not in SUFFIXES:
        raise ControllerError(f"--out is {path!r}; it must end in {', '.join(SUFFIXES)}")


def write_figure(path: Path, draw: Callable[[], Figure], page: Callable[[Markup], str]) -> None:
    """A figure, or the page around it; by the suffix. The same numbers give the same bytes.

    Args:
        path: the file.
        draw: makes the figure.
        page: makes the page of the figure's <svg> element.

    Raises:
        ControllerError: the file can't be written.
    """
    html = path.suffix == ".html"
    stream, kind = io.BytesIO(), "svg" if html else path.suffix[1:]
    with mpl.rc_context({"svg.hashsalt": "reasonctl"}):
        draw().savefig(stream, format=kind, metadata={"Date": None} if kind == "svg" else None)
    try:
        if html:
            svg = stream.getvalue().decode()
            path.write_text(page(Markup(svg[svg.index("<svg") :])), encoding="utf-8")
        else:
            path.write_bytes(stream.getvalue())
    except OSError as error:
        raise ControllerError(f"can't write {str(path)!r}: {error.strerror}; give another --out") from None
