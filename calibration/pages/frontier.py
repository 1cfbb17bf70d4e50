"""The figure and the page of `ctl frontier`: accuracy against all tokens, a line for each way."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, PercentFormatter, ScalarFormatter

from ..evaluation.frontier import Point
from .plotted import error_bars, write_figure
from .template import page_template

_MARKERS = "os^DvPX*<>dph"
_COLOURS = 10
"""Colours of matplotlib's cycle."""


def draw(points: Sequence[Point]) -> Figure:
    """Accuracy against tokens on a logarithmic axis; bars are 95 % intervals over problems."""
    figure = Figure(figsize=(8.2, 5.0), layout="constrained")
    axes = figure.subplots()
    ways = list(dict.fromkeys(one.way for one in points))
    for i, way in enumerate(ways):
        own = [one for one in points if one.way == way]
        x, y = [one.tokens.mean for one in own], [one.accuracy.mean for one in own]
        bars, spread = error_bars([one.accuracy for one in own]), error_bars([one.tokens for one in own])
        axes.errorbar(
            x,
            y,
            bars,
            spread,
            linewidth=1.2,
            elinewidth=0.6,
            label=way,
            color=f"C{i % _COLOURS}",
            marker=_MARKERS[i % len(_MARKERS)],
            markersize=5,
        )
    axes.set(xscale="log", xlabel="all tokens for a problem", ylabel="right answers")
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))  # 40 and not 4 x 10^1
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %", decimals=0))
    axes.grid(alpha=0.3, which="both")
    figure.legend(fontsize=8, loc="outside right upper")
    return figure


def write_frontier(path: Path, title: str, points: Sequence[Point], problems: int) -> None:
    """A figure, or the page with figure and table; by the suffix."""
    write_figure(path, lambda: draw(points), lambda figure: page(title, points, problems, figure))


def page(title: str, points: Sequence[Point], problems: int, figure: Markup) -> str:
    """The page; everything but the figure, which is ours, is escaped."""
    return page_template("frontier.html.jinja").render(title=title, points=points, problems=problems, figure=figure)
