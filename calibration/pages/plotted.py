"""Writes a matplotlib figure by the suffix of its file: as a figure, or as a page around it."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.figure import Figure

from reasonctl.controller import ControllerError
from reasonctl.probes.files import write_whole

from ..evaluation.intervals import Interval

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
    data = stream.getvalue()
    if html:
        svg = data.decode()
        data = page(Markup(svg[svg.index("<svg") :])).encode()
    write_whole(path, data)


def error_bars(intervals: Sequence[Interval]) -> list[list[float]]:
    """The distances from the means down and up to the intervals' ends, shape (2, n), as matplotlib takes them."""
    return [[one.mean - one.low for one in intervals], [one.high - one.mean for one in intervals]]
