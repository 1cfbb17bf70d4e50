"""The figures of `ctl pairs`: contrast accuracies, and what became of each strategy's pairs."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from ..diagnostics.graded_pairs import StrategyResult
from .figures import PAINT, percent_axis, svg_of


def contrast_rows(found: Sequence[StrategyResult]) -> str:
    """A line for each strategy: its contrast accuracy with the interval, or that there is none.

    Args:
        found: The strategies, in order from above.
    """

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.axvline(0.5, color=PAINT["muted"], linewidth=1, linestyle=(0, (1, 2)))
        for y, one in enumerate(found):
            if one.accuracy is None:
                axes.annotate("no pair has one right side", (0.5, y), (8, 0), textcoords="offset points", va="center")
            else:
                rate, low, high = one.accuracy
                paint = PAINT["muted"] if one.adjusted >= 0.05 else PAINT["s0"] if rate > 0.5 else PAINT["bad"]
                axes.plot([low, high], [y, y], color=paint, linewidth=2, alpha=0.6, solid_capstyle="round")
                axes.plot(rate, y, marker="o", markersize=6, color=paint)
        axes.set_yticks(range(len(found)), [one.strategy for one in found])
        axes.set(ylim=(len(found) - 0.4, -0.6), xlabel="contrast accuracy", xlim=(-0.02, 1.02))
        percent_axis(axes.xaxis)
        axes.grid(visible=False, axis="y")

    return svg_of(draw, 0.8 + 0.3 * len(found), "Contrast accuracy of each strategy, with its interval")


def outcome_bars(found: Sequence[StrategyResult]) -> str:
    """A bar for each strategy, in parts: agrees, reversed, ties, equal, empty, cut.

    Args:
        found: The strategies, in order from above.
    """
    paints = {"agrees": "good", "reversed": "bad", "ties": "s2", "equal": "muted", "empty": "line", "cut": "s3"}

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        left = [0] * len(found)
        for name, paint in paints.items():
            counts = [getattr(one, name) for one in found]
            axes.barh(range(len(found)), counts, left=left, height=0.6, color=PAINT[paint], linewidth=0, label=name)
            left = [a + b for a, b in zip(left, counts, strict=True)]
        axes.set_yticks(range(len(found)), [one.strategy for one in found])
        axes.set(ylim=(len(found) - 0.4, -0.6), xlabel="pairs")
        axes.grid(visible=False, axis="y")
        figure.legend(loc="outside upper center", ncols=6, frameon=False, fontsize=8.5)

    return svg_of(draw, 1.1 + 0.3 * len(found), "What the grader says of each strategy's pairs")
