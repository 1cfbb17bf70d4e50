"""What `ctl mcq` says of its cells: the table, the words and the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from ...diagnostics.mcq import Cell, CellResult, McqGrid
from ...diagnostics.mcq_prompts import Worked
from ...diagnostics.mcq_tests import Paired, Unbiased, against_plain, paired, plain, unbiased
from ..console import Console

HEAD = ("cell", "% right", "p vs none", "% unparsed", "chosen", "bias (95 %)", "RStd (95 %)", "tokens")
LEVEL = 0.05
"""Of tests."""


class Findings:
    """All cells with their tests."""

    def __init__(self, cells: Sequence[CellResult], notes: Sequence[str]) -> None:
        self.cells = cells
        self.notes = notes
        """What is said of the questions."""

    @cached_property
    def tests(self) -> list[Paired | None]:
        """Each debiased cell against its `none` cell."""
        return against_plain(self.cells)

    @cached_property
    def unbiased(self) -> list[Unbiased]:
        """What a chooser without bias gives in each cell."""
        return [unbiased(one) for one in self.cells]

    def to_json(self) -> list[dict[str, Any]]:
        """The cells as plain values."""
        found = []
        for one, test, reference in zip(self.cells, self.tests, self.unbiased, strict=True):
            found.append(one.to_json() | {"unbiased": reference.to_json(), "against_none": test and dict(vars(test))})
        return found

    def rows(self) -> list[list[str]]:
        """The table."""
        return [_row(*each) for each in zip(self.cells, self.tests, self.unbiased, strict=True)]

    def in_words(self) -> list[str]:
        """What the cells say."""
        worst = max(self.cells, key=lambda one: one.unparsed.rate)
        unread = f"Most answers that can't be read: {100 * worst.unparsed.rate:.0f} % ({named(worst.cell)}). "
        unread = unread + "They count as wrong." if worst.unparsed.rate else "All answers can be read."
        return [*self.notes, *_best(self.cells), unread, _biased(self.cells, self.unbiased), *self._debiased()]

    def _debiased(self) -> list[str]:
        lines = []
        for way in ("prior", "cyclic"):
            each = zip(self.cells, self.tests, strict=True)
            tests = [(one, test) for one, test in each if test is not None and one.cell.debias == way]
            if tests:
                lines.append(_gain(self.cells, way, tests))
        return lines


def notes_of(asked: Sequence[Worked], grid: McqGrid) -> list[str]:
    """What is said of the questions: options that were made up, and options that name others where they are rotated."""
    notes, n = [], len(asked)
    if made := sum(one.made for one in asked):
        notes.append(
            f"{made} of {n} questions have no options of their own: three wrong numbers close to the right one were "
            "made up, so their accuracy is not that of an exam."
        )
    refers = [one.question for one in asked if one.question.refers]
    if refers and any(one != "none" for one in grid.debias):
        notes.append(
            f"{len(refers)} of {n} questions have options that name others or their places (such as 'Both A and B', "
            f"'None of the above'), as {refers[0].stem[:60]!r} does: rotated they say something else, so prior and "
            "cyclic are wrong for them; leave such questions out."
        )
    return notes


class _Row(NamedTuple):
    """A number with that of a chooser without bias."""

    value: float
    reference: tuple[float, float]

    def __str__(self) -> str:
        return "-" if math.isnan(self.value) else f"{self.value:.2f} ({self.reference[1]:.2f})"


def named(cell: Cell) -> str:
    """A cell in words."""
    parts = [cell.format, f"{cell.order} first", f"{cell.shots} shots", f"T {cell.temperature:g}"]
    return ", ".join([*parts, *([cell.debias] if cell.debias != "none" else [])])


def _row(result: CellResult, test: Paired | None, reference: Unbiased) -> list[str]:
    right, unread = result.accuracy, result.unparsed
    return [
        named(result.cell),
        f"{100 * right.rate:.0f} ({100 * right.low:.0f}-{100 * right.high:.0f})",
        "-" if test is None else f"{test.adjusted:.3f}",
        f"{100 * unread.rate:.0f}",
        " ".join(map(str, result.bias.chosen)),
        str(_Row(result.bias.distance, reference.distance)),
        str(_Row(result.bias.recall_sd, reference.recall_sd)),
        f"{result.tokens:.0f}",
    ]


def _best(found: Sequence[CellResult]) -> list[str]:
    """The range of accuracies, and what the highest of so many is worth."""
    ranked = sorted(found, key=lambda one: -one.accuracy.rate)
    low, high = ranked[-1].accuracy.rate, ranked[0].accuracy.rate
    if len(found) == 1:
        return [f"Accuracy is {100 * high:.0f} %."]
    if low == high:
        return [f"Accuracy is {100 * high:.0f} % in every way of asking."]
    test = paired(ranked[0], ranked[1])
    apart = "differs" if test.p <= LEVEL else "doesn't differ"
    return [
        f"Accuracy is {100 * low:.0f} to {100 * high:.0f} % by the way of asking. "
        f"The highest, {named(ranked[0].cell)}, is picked from {len(found)} cells, so its number is "
        f"too high for new questions. It {apart} from the next one, "
        f"{named(ranked[1].cell)}, on the same questions ({test.gained} gained, {test.lost} lost, exact McNemar "
        f"p = {test.p:.3f}, not adjusted for the picking)."
    ]


def _biased(found: Sequence[CellResult], references: Sequence[Unbiased]) -> str:
    """In how many cells the letters are chosen as a chooser without bias hardly would."""
    over = [
        one
        for one, by in zip(found, references, strict=True)
        if one.bias.distance > by.distance[1] or one.bias.recall_sd > by.recall_sd[1]
    ]
    known = [one for one in zip(found, references, strict=True) if not math.isnan(one[1].distance[0])]
    if not known:
        return "No letter was chosen, so nothing can be said of a preference for one."
    (shown, first), count = known[0], len(found)
    text = (
        f"A chooser that prefers no letter has a bias of {first.distance[0]:.2f} and an RStd of "
        f"{first.recall_sd[0]:.2f} on so few questions too, "
        f"in one of 20 jobs above {first.distance[1]:.2f} and {first.recall_sd[1]:.2f} "
        f"({named(shown.cell)}; the table has every cell's 95 %). "
    )
    if not over:
        return text + "No cell is above."
    chance = f"up to {count * 0.1:.1g} would be by chance"
    return f"{text}{len(over)} of {count} cells are above, such as {named(over[0].cell)}; {chance}."


def _gain(found: Sequence[CellResult], way: str, tests: Sequence[tuple[CellResult, Paired]]) -> str:
    """What a way of debiasing gives."""
    both = [(other, one) for one, _ in tests if (other := plain(found, one)) is not None]
    gain = sum(b.accuracy.rate - a.accuracy.rate for a, b in both) / len(both)
    before, after = (sum(pair[i].bias.recall_sd for pair in both) / len(both) for i in (0, 1))
    better = sum(test.adjusted <= LEVEL and test.gained > test.lost for _, test in tests)
    worse = sum(test.adjusted <= LEVEL and test.gained < test.lost for _, test in tests)
    size = f"{len(both)} cell{'s' * (len(both) > 1)}"
    return (
        f"Debiasing by {way}: accuracy {100 * gain:+z.1f} points on average over {size}, "
        f"RStd {before:.2f} to {after:.2f}. "
        f"By the exact McNemar test against the same cell without it, after Holm, {better} are better, "
        f"{worse} worse, and {len(both) - better - worse} are undecided. "
        "It removes the preference for letters and places only."
    )


def show_results(show: Console, title: str, found: Findings) -> None:
    """The table and its meaning."""
    gold = " ".join(map(str, found.cells[0].bias.gold))
    note = (
        f"chosen: times A, B, ... was chosen (right: {gold}); bias: total variation between the two; in brackets: what "
        "a chooser without bias exceeds in one of 20 jobs; p vs none: exact McNemar test, Holm-adjusted"
    )
    show.findings(title, found.rows(), HEAD, found.in_words(), note)


def write(path: Path, title: str, found: Findings) -> None:
    """The page: accuracy and unread answers of each cell, the letters that were chosen, and the table."""
    from ...pages.diagnostic import PageFigure, PageTable, write_diagnostic
    from ...pages.mcq_figure import accuracy_rows, chosen_letters

    names = [named(one.cell) for one in found.cells]
    figures = [
        PageFigure(
            accuracy_rows(found.cells, names),
            "Share right, with 95 % intervals; dotted: by chance. Red: can't be read.",
        ),
        PageFigure(
            chosen_letters(found.cells, names),
            "Share of answers that choose each letter, less the share of questions whose right letter it is.",
        ),
    ]
    caption = "All ways of asking; p: exact McNemar test against the same cell without debiasing, Holm-adjusted"
    write_diagnostic(path, title, found.in_words(), figures, [PageTable(caption, HEAD, found.rows())])
