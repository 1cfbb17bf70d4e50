"""The figure and the page of `ctl advise policy`: recall against risk, a line for each kind of truncation."""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup
from matplotlib.figure import Figure

from ..advice.truncation import PolicyAdvice
from .plotted import write_figure
from .template import page_template

_DASHES = ("-", "--", "-.", ":")


def draw(advice: PolicyAdvice) -> Figure:
    """Recall against risk on a logarithmic axis; the parameters of equal risk are marked."""
    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    axes = figure.subplots()
    lowest = min(advice.found) / 20
    for i, (name, points) in enumerate(advice.curves.items()):
        shown = [one for one in points if one.risk >= lowest]
        line, *_ = axes.plot(
            [one.risk for one in shown], [one.recall for one in shown], linestyle=_DASHES[i // 5], label=name
        )
        marked = [one for by in advice.found.values() if (one := by[name]) is not None]
        axes.errorbar(
            [one.risk for one in marked],
            [one.recall for one in marked],
            [one.recall_error for one in marked],
            linestyle="none",
            marker="o",
            markersize=4,
            color=line.get_color(),
        )
    for target in advice.found:
        axes.axvline(target, color="0.6", linewidth=0.8, zorder=0)
    axes.set(xscale="log", xlabel="risk: tokens kept beyond the reasonable ones, per reasonable one", ylabel="recall")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, ncols=2)
    return figure


def write_page(path: Path, name: str, advice: PolicyAdvice) -> None:
    """A figure, or the page with figure and tables; by the suffix. The same numbers give the same bytes."""
    write_figure(path, lambda: draw(advice), lambda figure: page(name, advice, figure))


def page(name: str, advice: PolicyAdvice, figure: Markup) -> str:
    """The page; everything but the figure, which is ours, is escaped."""
    return page_template("advice.html.jinja").render(name=name, advice=advice, figure=figure)
