"""The figure of `ctl stability`: influence rates over length, strength and temperature, and next to the noise floor."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ..diagnostics.stability import FLOOR, Row
from .figures import PAINT, name_rows, rate_row, svg_of


def influence_grid(rows: Sequence[Row]) -> str:
    """A panel for each temperature: length across, strength upwards, the influence rate as colour and number.

    Args:
        rows: Rows of one number of votes, with a length.
    """
    temperatures = sorted({row.condition.temperature for row in rows})
    lengths, levels = sorted({row.condition.length for row in rows}), sorted({_level(row) for row in rows})

    def draw(figure: Figure) -> None:
        panels = figure.subplots(len(temperatures), 1, squeeze=False)[:, 0]
        for axes, t in zip(panels, temperatures, strict=True):
            for row in rows:
                if row.condition.temperature == t:
                    _cell(axes, lengths.index(row.condition.length), levels.index(_level(row)), row)
            axes.set(xlim=(-0.5, len(lengths) - 0.5), ylim=(-0.5, len(levels) - 0.5))
            axes.set_ylabel("sound" if levels[0][0] else "strength")
            axes.set_xticks(range(len(lengths)), [str(one) for one in lengths])
            axes.set_yticks(range(len(levels)), [sound or f"{strength:g}" for sound, strength in levels])
            axes.set_title(f"temperature {t:g}", fontsize=9.5, loc="left", color=PAINT["muted"])
            axes.grid(visible=False)
        panels[-1].set_xlabel("length")

    height = 0.7 + len(temperatures) * (0.5 + 0.55 * len(levels))
    return svg_of(draw, height, "Influence rate by length, strength and temperature")


def _level(row: Row) -> tuple[str, float]:
    """What a row of the grid has in common: a sound, or a strength."""
    return row.condition.sound, row.condition.strength


def _cell(axes: Axes, x: int, y: int, row: Row) -> None:
    compared = row.compared
    paint = PAINT["bad"] if row.adjusted < 0.05 else PAINT["s0"]
    axes.add_patch(
        Rectangle(
            (x - 0.48, y - 0.46), 0.96, 0.92, color=paint, alpha=0.08 + 0.6 * compared.influence.rate, linewidth=0
        )
    )
    change = 100 * (compared.gained - compared.lost) / compared.n
    axes.annotate(
        f"{100 * compared.influence.rate:.0f} %  ({change:+z.0f})", (x, y), ha="center", va="center", fontsize=8.5
    )


def influence_rows(rows: Sequence[Row], names: Sequence[str]) -> str:
    """A line for each condition: its influence rate with the 95 % interval, and the share of changed answers.

    Args:
        rows: The rows, in order from above.
        names: What each is called.
    """

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for y, row in enumerate(rows):
            paint = PAINT["muted"] if row.condition.perturb == FLOOR else PAINT["s0"]
            rate_row(axes, y, *row.compared.influence, paint)
            axes.plot(row.compared.flips.rate, y, marker="|", markersize=9, color=PAINT["exit"], markeredgewidth=1.6)
        name_rows(axes, names, "share of problems")

    return svg_of(draw, 0.8 + 0.27 * len(rows), "Influence rate of each condition, with its interval")
