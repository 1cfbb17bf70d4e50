"""The report's figures: matplotlib's SVG, inlined, in the page's own colours so that it follows light and dark.

The numbers come from report.py. The same numbers give the same bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from reasonctl.probes.signals import SIGNALS

Array = npt.NDArray[Any]

_NAMES = ("ink", "muted", "line", "paper", "good", "bad", "exit", *(f"s{i}" for i in range(len(SIGNALS))))
PAINT = {name: f"#0000{16 + i:02x}" for i, name in enumerate(_NAMES)}
"""Stand-ins for the page's colours; they are variables of its style sheet in the finished figure."""

STYLE: Any = {
    "svg.hashsalt": "reasonctl",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10.0,
    "text.color": PAINT["ink"],
    "axes.labelcolor": PAINT["muted"],
    "axes.edgecolor": PAINT["line"],
    "xtick.color": PAINT["muted"],
    "ytick.color": PAINT["muted"],
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": PAINT["line"],
    "grid.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "axes.labelsize": 10.0,
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
    "figure.constrained_layout.use": True,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
}
DASHES = ("-", (0, (5, 1.5)), (0, (3, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)), (0, (4, 1, 1, 1, 1, 1)), "-")
PLUGIN_DASH = (0, (1, 2))
WIDTH = 4.7


def paint_of(signal: str) -> str:
    """The style sheet's variable of a signal's colour; a plugin's is drawn in the text's."""
    return f"s{SIGNALS.index(signal)}" if signal in SIGNALS else "ink"


def dash_of(signal: str) -> Any:
    """The line style of a signal, as matplotlib takes it."""
    return DASHES[SIGNALS.index(signal)] if signal in SIGNALS else PLUGIN_DASH


def trade_off(
    curves: Mapping[str, tuple[Array, Array]],
    fixed: tuple[Array, Array] | None,
    oracle: float | None,
    *,
    signal: str,
    risk: float,
    here: tuple[float, float] | None,
    measured: tuple[float, float] | None,
) -> str:
    """Failing share against tokens saved.

    Args:
        curves: Failing shares and shares of tokens saved, by signal.
        fixed, oracle: The same for `always exit at cue k`, and what the oracle saves. None: not collected.
        signal: The signal asked for.
        risk: Most failures that the promise allows, as a share.
        here: The rule on the calibration runs. None: nothing counts there.
        measured: The rule on fresh problems. None: it wasn't evaluated.
    """

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        right = min(1.0, max(3 * risk, 0.03))
        axes.axvspan(risk, right, color=PAINT["bad"], alpha=0.07, linewidth=0)
        axes.axvline(risk, color=PAINT["bad"], linewidth=1)
        if oracle is not None:
            axes.axhline(oracle, color=PAINT["muted"], linewidth=1, linestyle=(0, (1, 2)))
        _lines(axes, curves, fixed, signal)
        _mark(axes, here, "o")
        _mark(axes, measured, "D")
        seen = np.concatenate([y[x <= right] for x, y in [*curves.values(), *([] if fixed is None else [fixed])]])
        low, high = float(seen.min(initial=0.0)), float(seen.max(initial=0.0)) if oracle is None else oracle
        axes.set(xlim=(-0.012 * right, right), ylim=(max(-0.4, min(-0.02, low - 0.02)), max(0.1, high) * 1.12))
        axes.set(xlabel="runs that fail", ylabel="tokens saved")
        axes.xaxis.set_major_formatter(_percent(0 if right > 0.05 else 1))
        axes.yaxis.set_major_formatter(_percent())

    return svg_of(draw, 3.5, "Tokens saved against the share of runs that fail, a line for each signal")


def upper_hull(x: Array, y: Array) -> tuple[Array, Array]:
    """The corners of the least concave line above points: what drawing one of two points for each run does on average.

    >>> upper_hull(np.array([0.0, 0.1, 0.2, 0.4]), np.array([0.0, 0.1, 0.6, 0.8]))
    (array([0. , 0.2, 0.4]), array([0. , 0.6, 0.8]))
    """
    corners: list[tuple[float, float]] = []
    highest: dict[float, float] = {}
    for a, b in zip(x.tolist(), y.tolist(), strict=True):
        highest[a] = max(b, highest.get(a, b))
    for a, b in sorted(highest.items()):
        while len(corners) > 1 and _rises(corners[-2], corners[-1], (a, b)):
            corners.pop()
        corners.append((a, b))
    return np.array([a for a, _ in corners]), np.array([b for _, b in corners])


def _rises(first: tuple[float, float], middle: tuple[float, float], last: tuple[float, float]) -> bool:
    """Whether the middle point lies on or below the line between the others."""
    (a, b), (c, d), (e, f) = first, middle, last
    return (d - b) * (e - a) <= (f - b) * (c - a)


def _lines(
    axes: Axes, curves: Mapping[str, tuple[Array, Array]], fixed: tuple[Array, Array] | None, signal: str
) -> None:
    """The fixed cues, then a line for each signal; the one asked for is thicker, and on top."""
    if fixed is not None:
        axes.plot(*fixed, color=PAINT["muted"], linewidth=0, marker="s", markersize=3)
        axes.plot(*upper_hull(*fixed), color=PAINT["muted"], linewidth=1.2, linestyle=(0, (2, 2)))
    for name, curve in sorted(curves.items(), key=lambda item: item[0] == signal):
        width = 2.4 if name == signal else 1.3
        axes.plot(*curve, color=PAINT[paint_of(name)], linewidth=width, linestyle=dash_of(name))


def _percent(decimals: int = 0) -> PercentFormatter:
    """Shares as percent."""
    return PercentFormatter(1.0, symbol=" %", decimals=decimals)


def percent_axis(axis: Axis) -> None:
    """Write an axis of shares as percent."""
    axis.set_major_formatter(_percent())


def rate_row(axes: Axes, y: int, rate: float, low: float, high: float, paint: str) -> None:
    """A share as a dot on its interval, in row `y`."""
    axes.plot([low, high], [y, y], color=paint, linewidth=2, alpha=0.6, solid_capstyle="round")
    axes.plot(rate, y, marker="o", markersize=6, color=paint)


def name_rows(axes: Axes, names: Sequence[str], label: str) -> None:
    """Name the rows from above, and write the shares below as percent of what `label` says."""
    axes.set_yticks(range(len(names)), names)
    axes.set(ylim=(len(names) - 0.4, -0.6), xlabel=label, xlim=(-0.02, 1.02))
    percent_axis(axes.xaxis)
    axes.grid(visible=False, axis="y")


def _mark(axes: Axes, point: tuple[float, float] | None, marker: str) -> None:
    """A large dot, if there is one."""
    if point is not None:
        edge = PAINT["paper"]
        axes.plot(
            *point, marker=marker, markersize=8, color=PAINT["exit"], markeredgecolor=edge, clip_on=False, zorder=5
        )


def reliability(scores: Array, target: Array, threshold: float, word: str) -> str:
    """Share of right answers among the cues of ten score bins, with how many cues each bin holds.

    Args:
        scores: The probe's probabilities. Shape (cues,).
        target: Whether an exit there would be right. Shape (cues,).
        threshold: Drawn if it lies within 0..1.
        word: What a right answer is called.
    """

    def draw(figure: Figure) -> None:
        top, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        bins = np.clip((scores * 10).astype(int), 0, 9)
        counts, hits = np.bincount(bins, minlength=10), np.bincount(bins, weights=target, minlength=10)
        full = counts > 0
        means = np.bincount(bins, weights=scores, minlength=10)[full] / counts[full]
        top.plot([0, 1], [0, 1], color=PAINT["muted"], linewidth=1, linestyle=(0, (2, 2)))
        shares, sizes = hits[full] / counts[full], 12 + 90 * np.sqrt(counts[full] / max(counts.max(), 1))
        top.plot(means, shares, color=PAINT["s0"], linewidth=1.5, alpha=0.6)
        top.scatter(means, shares, s=sizes, color=PAINT["s0"], linewidth=0, clip_on=False, zorder=3)
        centres = np.arange(10) / 10 + 0.05
        below.bar(centres, counts, width=0.088, color=PAINT["s0"], alpha=0.55, linewidth=0)
        for x, count in zip(centres, counts, strict=True):
            _count(below, float(x), int(count))
        for axes in (top, below):
            if 0 <= threshold <= 1:
                axes.axvline(threshold, color=PAINT["exit"], linewidth=1.2)
        top.set(ylim=(-0.03, 1.03), xlim=(0, 1.005), ylabel=f"cues {word}")
        top.yaxis.set_major_formatter(_percent())
        below.set(ylim=(0, max(1, counts.max()) * 1.35), xlabel="the probe's score", ylabel="cues")
        below.set_yticks([])
        below.grid(visible=False)

    return svg_of(draw, 3.5, "Share of right answers against the probe's score")


def by_cue(index: Array, failed: Array, never: int) -> str:
    """How many runs exit at their first, second ... cue.

    Args:
        index: The cue of each exit, from 0. Shape (exits,).
        failed: Whether it breaks the promise. Shape (exits,).
        never: Number of runs that don't exit.
    """
    last = 12
    clipped = np.minimum(index, last - 1)
    names = [str(i + 1) for i in range(last)]
    if (index >= last).any():
        names[-1] = f"{last}+"
    shown = int(clipped.max(initial=0)) + 1

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        fine, bad = _pair(clipped, failed, shown)
        _stacked(axes, np.arange(shown), fine, bad, 0.8)
        axes.bar(shown + 0.5, never, width=0.8, color=PAINT["muted"], alpha=0.6, linewidth=0)
        _count(axes, shown + 0.5, never)
        axes.set_xticks([*range(shown), shown + 0.5], [*names[:shown], "never"])
        _finish(axes, "cue at which the run exits", max(int((fine + bad).max()), never))

    return svg_of(draw, 2.8, "Number of runs that exit at each cue")


def by_share(share: Array, failed: Array) -> str:
    """How much of its full length a run had gone when it exited.

    Args:
        share: The part that was written, in 0..1. Shape (exits,).
        failed: Whether the exit breaks the promise. Shape (exits,).
    """

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        fine, bad = _pair(np.clip((share * 10).astype(int), 0, 9), failed, 10)
        _stacked(axes, np.arange(10) / 10 + 0.05, fine, bad, 0.088)
        axes.set_xticks(np.arange(0, 1.1, 0.2))
        axes.xaxis.set_major_formatter(_percent())
        axes.set_xlim(-0.03, 1.0)
        _finish(axes, "share of the full run written before the exit", int((fine + bad).max()))

    return svg_of(draw, 2.8, "Number of runs that exit at each share of their full length")


def _pair(bins: Array, failed: Array, size: int) -> tuple[Array, Array]:
    return np.bincount(bins[~failed], minlength=size), np.bincount(bins[failed], minlength=size)


def _stacked(axes: Axes, x: Array, fine: Array, failed: Array, width: float) -> None:
    axes.bar(x, fine, width=width, color=PAINT["good"], alpha=0.8, linewidth=0)
    axes.bar(x, failed, width=width, bottom=fine, color=PAINT["bad"], linewidth=0)
    for at, count in zip(x, fine + failed, strict=True):
        _count(axes, float(at), int(count))


def _count(axes: Axes, x: float, count: int) -> None:
    if count:
        axes.annotate(f"{count}", (x, count), (0, 2), textcoords="offset points", ha="center", fontsize=8.5)


def _finish(axes: Axes, label: str, most: int) -> None:
    axes.set(xlabel=label, ylabel="runs", ylim=(0, 1.12 * max(most, 1)))
    axes.grid(visible=False, axis="x")
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))


def svg_of(draw: Callable[[Figure], None], height: float, label: str) -> str:
    """An <svg> element that takes its width and its colours from the page."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height))
        draw(figure)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return tidy(stream.getvalue(), label)


def tidy(written: str, label: str) -> str:
    """Without matplotlib's preamble, fixed size, group names and metadata; named for those who can't see it."""
    svg = written[written.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r' (?:xmlns(?::xlink)?|version)="[^"]*"', "", svg, count=3)
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' id="[a-zA-Z][\w.]*_\d+"', "", svg)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family:[^;\"]*;? ?", "", svg)
    for name, stand_in in PAINT.items():
        svg = svg.replace(stand_in, f"var(--{name})")
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


class LegendEntry(NamedTuple):
    """One line of `trade_off`."""

    signal: str
    """Its signal."""
    paint: str
    """The style sheet's variable of its colour."""
    dash: str
    """Its stroke-dasharray; empty for a whole line."""


def legend(signals: Sequence[str]) -> list[LegendEntry]:
    """Every line of `trade_off`."""
    rows = []
    for name in signals:
        dash = dash_of(name)
        rows.append(LegendEntry(name, paint_of(name), "" if dash == "-" else " ".join(f"{2 * n:g}" for n in dash[1])))
    return rows
