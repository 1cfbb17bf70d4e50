"""Five runs that show a rule at its best, at its usual and at its worst, picked by fixed rules, never by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reasonctl.probes.risk.table import NO_EXIT, Bools, Ints, Outcomes, Table

BEFORE, AFTER = 900, 600
"""Characters of a run's text that are shown before and behind the cue in focus."""


@dataclass(frozen=True)
class Example:
    """run: its index in the table. focus: the cue that the example is about, index in its run. title, why: for people.

    failure: it shows the rule failing, or what it leaves on the table.
    """

    title: str
    why: str
    failure: bool
    run: int
    focus: int


@dataclass(frozen=True)
class Piece:
    """A stretch of a run's text. cue: the cue that starts it [none]. unwritten: an exit spares it."""

    text: str
    cue: int | None
    unwritten: bool


@dataclass(frozen=True, eq=False)
class RuleOutcome:
    """A rule on the calibration runs. target, failing: (cues,) an exit there would be right; would break the promise.

    plain: (runs,) tokens of a run that nothing looks at; the table's own cost more where the signal runs trials.
    """

    table: Table
    threshold: float
    out: Outcomes
    target: Bools
    failing: Bools
    plain: Ints

    @property
    def saved(self) -> Ints:
        """Shape (runs,): tokens that the rule spares, net of trials and exits."""
        return np.asarray(self.plain - self.out.tokens)

    @property
    def saved_share(self) -> float:
        """Of the plain runs' tokens."""
        return float(self.saved.sum() / max(self.plain.sum(), 1))

    @property
    def failed(self) -> Bools:
        """Shape (runs,): the run exits, and that breaks the promise."""
        return self._at_exit(self.failing)

    def _at_exit(self, at: Bools) -> Bools:
        hit = np.zeros(self.table.runs, dtype=bool)
        exited = np.flatnonzero(self.out.exited)
        hit[exited] = at[self.table.offsets[exited] + self.out.cue[exited]]
        return hit


def pick(judged: RuleOutcome) -> tuple[list[Example], list[str]]:
    """At most five examples, no run twice, and one line for every kind of run that doesn't exist."""
    examples: list[Example] = []
    absent: list[str] = []
    for kind in (_biggest, _typical, _failure, _missed, _helped):
        found = kind(judged, {example.run for example in examples})
        if isinstance(found, str):
            absent.append(found)
        else:
            examples.append(found)
    return examples, absent


def _biggest(judged: RuleOutcome, used: set[int]) -> Example | str:
    runs = _ranked(judged.out.exited, judged.saved, used)
    if not runs:
        return "There is no biggest saving to show: no run exits."
    return Example(
        "The biggest saving",
        "Of all exits, the one that spares the most tokens.",
        False,
        runs[0],
        int(judged.out.cue[runs[0]]),
    )


def _typical(judged: RuleOutcome, used: set[int]) -> Example | str:
    runs = _ranked(judged.out.exited, judged.saved, set())
    middle = len(runs) // 2
    run = next((run for run in [*runs[middle:], *reversed(runs[:middle])] if run not in used), None)
    if run is None:
        return "There is no typical exit to show."
    return Example("A typical exit", "The median of all exits by tokens spared.", False, run, int(judged.out.cue[run]))


def _failure(judged: RuleOutcome, used: set[int]) -> Example | str:
    table, failed = judged.table, judged.failed
    runs = _ranked(failed, _score_at_exit(judged), used)
    if runs:
        why = f"Exits that fail: {_count(failed)}. This one has the highest score."
        return Example("A failure", why, True, runs[0], int(judged.out.cue[runs[0]]))
    before = table.cue_index < np.where(judged.out.exited, judged.out.cue, table.cues + 1)[table.run_of]
    candidates = judged.failing & before & ~np.isin(table.run_of, list(used))
    if not candidates.any():
        return "No exit fails, and at no cue would one have: there is no failure to show."
    at = int(np.flatnonzero(candidates)[np.argmax(table.scores[candidates])])
    limit = f"the threshold is {judged.threshold:.4g}" if judged.threshold < np.inf else "the rule never exits"
    why = (
        "No exit of these runs fails. Of all cues where one would have, this has the highest score: "
        f"{table.scores[at]:.3g}; {limit}."
    )
    return Example("The nearest miss", why, True, int(table.run_of[at]), int(table.cue_index[at]))


def _missed(judged: RuleOutcome, used: set[int]) -> Example | str:
    first = judged.table.first_where(judged.target)
    missed = ~judged.out.exited & (first != NO_EXIT)
    runs = _ranked(missed, _wasted(judged, first), used)
    if not runs:
        return "Every run that had a right answer at some cue exits: there is no missed exit to show."
    why = f"Runs that never exit although they could have: {_count(missed)}. This one wastes the most tokens."
    return Example("A missed exit", why, True, runs[0], int(first[runs[0]]))


def _helped(judged: RuleOutcome, used: set[int]) -> Example | str:
    helped = judged.out.help & judged.table.graded
    runs = _ranked(helped, judged.saved, used)
    if runs:
        why = f"Right exits of runs that would have ended wrong: {_count(helped)}. This one spares the most tokens."
        return Example("An exit that helped", why, False, runs[0], int(judged.out.cue[runs[0]]))
    first = judged.table.first_where(judged.target)
    late = judged.out.exited & (first != NO_EXIT) & (judged.out.cue > first)
    runs = _ranked(late, _wasted(judged, first) - judged.saved, used)
    if not runs:
        return "No exit turned a wrong answer into a right one, and none came later than it could have."
    why = f"Exits that come later than they could have: {_count(late)}. This one wastes the most tokens."
    return Example("The latest exit", why, True, runs[0], int(judged.out.cue[runs[0]]))


def _ranked(among: Bools, by: Any, used: set[int]) -> list[int]:
    """These runs, largest first; ties go to the earlier run."""
    runs = [int(run) for run in np.flatnonzero(among) if run not in used]
    return sorted(runs, key=lambda run: (-float(by[run]), run))


def _score_at_exit(judged: RuleOutcome) -> Any:
    at = np.where(judged.out.exited, judged.table.offsets[:-1] + judged.out.cue, 0)
    return judged.table.scores[at] if judged.table.cues else np.zeros(judged.table.runs)


def _wasted(judged: RuleOutcome, first: Ints) -> Ints:
    """Shape (runs,): tokens that an exit at cue `first` would have spared."""
    return np.asarray(judged.plain - judged.table.outcomes(first).tokens)


def _count(among: Bools) -> str:
    return f"{int(among.sum())} of {len(among)}"


def pieces(text: str, offsets: Sequence[int], exit_at: int | None, focus: int) -> tuple[int, list[Piece], int]:
    """(characters left out before, the text around the focus cut at its cues, characters left out behind).

    >>> pieces("ab wait cd", [3], 0, 0)[1][1]
    Piece(text='wait cd', cue=0, unwritten=True)
    """
    centre = offsets[focus] if offsets else len(text)
    low, high = max(0, centre - BEFORE), min(len(text), centre + AFTER)
    edges = [0, *offsets, len(text)]
    found = []
    for i, (start, end) in enumerate(zip(edges, edges[1:], strict=False)):
        cue = i - 1 if i and low <= start <= high else None
        part = text[max(start, low) : max(min(end, high), low)]
        if part or cue is not None:
            found.append(Piece(part, cue, exit_at is not None and i > exit_at))
    return low, found, len(text) - high
