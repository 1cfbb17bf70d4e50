"""The figures of `ctl mcq`: accuracy and unread answers of each way of asking, and the letters that are chosen."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ..diagnostics.mcq import CellResult
from .figures import PAINT, name_rows, rate_row, svg_of

_PAINTS = {"none": "s0", "prior": "s1", "cyclic": "s4"}


def accuracy_rows(found: Sequence[CellResult], names: Sequence[str]) -> str:
    """A line for each cell: the share right with its interval, and the share that can't be read as a red bar.

    Args:
        found: The cells, in order from above.
        names: What each is called.
    """

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for y, one in enumerate(found):
            rate_row(axes, y, *one.accuracy, PAINT[_PAINTS[one.cell.debias]])
            axes.barh(y, one.unparsed.rate, height=0.5, left=0, color=PAINT["bad"], alpha=0.35, linewidth=0)
        chance = 1 / len(found[0].bias.gold)
        axes.axvline(chance, color=PAINT["muted"], linewidth=1, linestyle=(0, (1, 2)))
        name_rows(axes, names, "share of questions")

    return svg_of(draw, 0.8 + 0.27 * len(found), "Share of right answers of each way of asking, with its interval")


def chosen_letters(found: Sequence[CellResult], names: Sequence[str]) -> str:
    """A row for each cell and a column for each letter: how much more often it is chosen than it is right, in points.

    Args:
        found: The cells, in order from above.
        names: What each is called.
    """

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        letters = len(found[0].bias.gold)
        for y, one in enumerate(found):
            if not sum(one.bias.chosen):
                axes.annotate("none can be read", ((letters - 1) / 2, y), ha="center", va="center", fontsize=8.5)
                continue
            total = sum(one.bias.chosen)
            for x, (chosen, gold) in enumerate(zip(one.bias.chosen, one.bias.gold, strict=True)):
                gap = chosen / total - gold / one.n
                paint = PAINT["s1"] if gap > 0 else PAINT["s0"]
                corner = (x - 0.48, y - 0.46)
                axes.add_patch(Rectangle(corner, 0.96, 0.92, color=paint, alpha=min(0.75, 1.5 * abs(gap)), linewidth=0))
                axes.annotate(f"{100 * gap:+z.0f}", (x, y), ha="center", va="center", fontsize=8.5)
        axes.set_xticks(range(letters), list("ABCDEFGHIJ"[:letters]))
        axes.set_yticks(range(len(found)), names)
        axes.set(xlim=(-0.5, letters - 0.5), ylim=(len(found) - 0.5, -0.5))
        axes.grid(visible=False)

    return svg_of(draw, 0.6 + 0.27 * len(found), "How much more often each letter is chosen than right, in points")
