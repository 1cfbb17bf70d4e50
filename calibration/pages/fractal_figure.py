"""The figures of `ctl diagnose fractal`: exponents with their intervals, and the lines that they are slopes of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from ..diagnostics.fractal import SIZES, Exponents
from ..diagnostics.fractional_noise import Recovered
from .figures import PAINT, svg_of


def hurst_rows(sources: Sequence[tuple[str, Exponents]], noise: Sequence[Recovered]) -> str:
    """A line for each source: the Hurst exponent by rescaled range with its interval, and by DFA.

    Args:
        sources: What each is called, and its exponents; the first is compared with.
        noise: What noise of known exponents gives at the same lengths.
    """

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        first = sources[0][1].rescaled_range
        axes.axvspan(first.low, first.high, color=PAINT["s0"], alpha=0.08, linewidth=0)
        for one in noise:
            axes.axvline(one.rescaled_range[0], color=PAINT["muted"], linewidth=1, linestyle=(0, (1, 2)))
            axes.annotate(f"H {one.hurst:g}", (one.rescaled_range[0], -0.55), ha="center", va="bottom", fontsize=8.5)
        for y, (_, found) in enumerate(sources):
            paint = PAINT["s0"] if y == 0 else PAINT["s1"]
            by_range, by_dfa = found.rescaled_range, found.dfa
            axes.plot([by_range.low, by_range.high], [y, y], color=paint, linewidth=2, alpha=0.6)
            axes.plot(by_range.value, y, marker="o", markersize=6, color=paint)
            axes.plot(by_dfa.value, y, marker="|", markersize=10, color=PAINT["exit"], markeredgewidth=1.6)
        axes.set_yticks(range(len(sources)), [name for name, _ in sources])
        axes.set(ylim=(len(sources) - 0.4, -0.6), xlabel="Hurst exponent")
        axes.grid(visible=False, axis="y")

    return svg_of(draw, 1.1 + 0.32 * len(sources), "Hurst exponent of each source, with its interval")


def scaling(sources: Sequence[tuple[str, Exponents]]) -> str:
    """Rescaled range against the size of the window, both logarithmic, with the fitted line of each source.

    Args:
        sources: What each is called, and its exponents.
    """

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        x = np.array(SIZES, dtype=np.float64)
        for i, (name, found) in enumerate(sources):
            y, paint = np.array(found.rescaled_range.points), PAINT[f"s{i % 7}"]
            axes.plot(x, y, marker="o", markersize=4, linewidth=0, color=paint)
            level = np.exp(np.log(y).mean() - found.rescaled_range.value * np.log(x).mean())
            axes.plot(x, level * x**found.rescaled_range.value, linewidth=1.4, color=paint, label=name)
        axes.set(xscale="log", yscale="log", xlabel="tokens of a window", ylabel="rescaled range R / S")
        axes.xaxis.set_major_locator(FixedLocator(list(SIZES)))
        axes.xaxis.set_major_formatter(FixedFormatter([str(size) for size in SIZES]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.legend(frameon=False, fontsize=8.5)

    return svg_of(draw, 3.4, "Rescaled range against the size of the window, a line for each source")
