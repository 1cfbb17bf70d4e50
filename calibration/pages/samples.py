"""The figure and the page of `ctl advise samples`: accuracy of votes, a line for each policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from ..advice.samples import Measured
from .plotted import error_bars, write_figure
from .template import page_template

_SHIFT = 0.05
"""Distance of neighbouring lines, so that their bars don't hide each other."""


def draw(found: Mapping[int, Sequence[Measured]]) -> Figure:
    """Accuracy of the vote at each number of samples; bars are 95 % intervals over problems."""
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.subplots()
    sizes = list(found)
    policies = sorted(one.policy for one in found[sizes[0]])
    for i, policy in enumerate(policies):
        own = [next(one for one in found[size] if one.policy == policy) for size in sizes]
        y = [one.accuracy.mean for one in own]
        bars = error_bars([one.accuracy for one in own])
        places = [place + (i - len(policies) / 2) * _SHIFT for place in range(len(sizes))]
        axes.errorbar(places, y, bars, marker="o", markersize=5, linewidth=1.2, elinewidth=0.7, label=policy)
    axes.set_xticks(range(len(sizes)), [str(size) for size in sizes])
    axes.set(xlabel="samples of a vote", ylabel="right votes")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %", decimals=0))
    axes.grid(alpha=0.3)
    figure.legend(fontsize=8, loc="outside right upper")
    return figure


def write_samples(path: Path, title: str, found: Mapping[int, Sequence[Measured]], problems: int) -> None:
    """A figure, or the page with figure and tables; by the suffix."""
    write_figure(path, lambda: draw(found), lambda figure: page(title, found, problems, figure))


def page(title: str, found: Mapping[int, Sequence[Measured]], problems: int, figure: Markup) -> str:
    """The page; everything but the figure, which is ours, is escaped."""
    return page_template("samples.html.jinja").render(title=title, found=found, problems=problems, figure=figure)
