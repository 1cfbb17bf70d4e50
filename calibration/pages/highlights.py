"""Five runs that show a rule at its best, at its usual and at its worst, picked by fixed rules, never by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from reasonctl.probes.risk import NO_EXIT, Bools, Floats64, Ints, Outcomes, Table

BEFORE, AFTER = 900, 600
"""Characters of a run's text that are shown before and after the cue in focus."""


@dataclass(frozen=True)
class Example:
    """One run that the page shows."""

    title: str
    """What kind of example it is, for people."""
    why: str
    """How it was picked, for people."""
    failure: bool
    """Whether the rule fails here, or misses what it could have saved."""
    run: int
    """The run's index in the table."""
    focus: int
    """The cue that the example is about: its index in the run."""


@dataclass(frozen=True)
class Piece:
    """A stretch of a run's text."""

    text: str
    """The characters."""
    cue: int | None
    """The cue that starts it. None: no cue does."""
    unwritten: bool
    """Whether an exit spares it."""


class Excerpt(NamedTuple):
    """The text around one cue."""

    before: int
    """Number of characters left out before it."""
    pieces: list[Piece]
    """The text, divided at its cues."""
    after: int
    """Number of characters left out after it."""


@dataclass(frozen=True, eq=False)
class RuleOutcome:
    """What a rule does to the calibration runs."""

    table: Table
    """The runs, with the scores of the rule's signal. Their costs include its trials."""
    threshold: float
    """The rule exits at the first cue whose score exceeds it."""
    out: Outcomes
    """What becomes of each run."""
    target: Bools
    """Shape (cues,): an exit there would be right."""
    failing: Bools
    """Shape (cues,): an exit there would break the promise."""
    plain: Ints
    """Shape (runs,): tokens of each run without a rule, and so without trials."""

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


def pick(outcome: RuleOutcome) -> tuple[list[Example], list[str]]:
    """At most five examples, no run twice, and one line for every kind of run that doesn't exist."""
    examples: list[Example] = []
    absent: list[str] = []
    for kind in (_biggest, _typical, _failure, _missed, _helped):
        found = kind(outcome, {example.run for example in examples})
        if isinstance(found, str):
            absent.append(found)
        else:
            examples.append(found)
    return examples, absent


def _biggest(outcome: RuleOutcome, used: set[int]) -> Example | str:
    runs = _ranked(outcome.out.exited, outcome.saved, used)
    if not runs:
        return "There is no biggest saving to show: no run exits."
    return Example(
        "The biggest saving",
        "Of all exits, the one that spares the most tokens.",
        False,
        runs[0],
        int(outcome.out.cue[runs[0]]),
    )


def _typical(outcome: RuleOutcome, used: set[int]) -> Example | str:
    runs = _ranked(outcome.out.exited, outcome.saved, set())
    middle = len(runs) // 2
    run = next((run for run in [*runs[middle:], *reversed(runs[:middle])] if run not in used), None)
    if run is None:
        return "There is no typical exit to show."
    return Example("A typical exit", "The median of all exits by tokens spared.", False, run, int(outcome.out.cue[run]))


def _failure(outcome: RuleOutcome, used: set[int]) -> Example | str:
    table, failed = outcome.table, outcome.failed
    runs = _ranked(failed, _score_at_exit(outcome), used)
    if runs:
        why = f"Exits that fail: {_count(failed)}. This one has the highest score."
        return Example("A failure", why, True, runs[0], int(outcome.out.cue[runs[0]]))
    before = table.cue_index < np.where(outcome.out.exited, outcome.out.cue, table.cues + 1)[table.run_of]
    candidates = outcome.failing & before & ~np.isin(table.run_of, list(used))
    if not candidates.any():
        return "No exit fails, and at no cue would one have: there is no failure to show."
    at = int(np.flatnonzero(candidates)[np.argmax(table.scores[candidates])])
    limit = f"the threshold is {outcome.threshold:.4g}" if outcome.threshold < np.inf else "the rule never exits"
    why = (
        "No exit of these runs fails. Of all cues where one would have, this has the highest score: "
        f"{table.scores[at]:.3g}; {limit}."
    )
    return Example("The nearest miss", why, True, int(table.run_of[at]), int(table.cue_index[at]))


def _missed(outcome: RuleOutcome, used: set[int]) -> Example | str:
    first = outcome.table.first_where(outcome.target)
    missed = ~outcome.out.exited & (first != NO_EXIT)
    runs = _ranked(missed, _wasted(outcome, first), used)
    if not runs:
        return "Every run that had a right answer at some cue exits: there is no missed exit to show."
    why = f"Runs that never exit although they could have: {_count(missed)}. This one wastes the most tokens."
    return Example("A missed exit", why, True, runs[0], int(first[runs[0]]))


def _helped(outcome: RuleOutcome, used: set[int]) -> Example | str:
    helped = outcome.out.help & outcome.table.graded
    runs = _ranked(helped, outcome.saved, used)
    if runs:
        why = f"Right exits of runs that would have ended wrong: {_count(helped)}. This one spares the most tokens."
        return Example("An exit that helped", why, False, runs[0], int(outcome.out.cue[runs[0]]))
    first = outcome.table.first_where(outcome.target)
    late = outcome.out.exited & (first != NO_EXIT) & (outcome.out.cue > first)
    runs = _ranked(late, _wasted(outcome, first) - outcome.saved, used)
    if not runs:
        return "No exit turned a wrong answer into a right one, and none came later than it could have."
    why = f"Exits that come later than they could have: {_count(late)}. This one wastes the most tokens."
    return Example("The latest exit", why, True, runs[0], int(outcome.out.cue[runs[0]]))


def _ranked(among: Bools, by: Floats64 | Ints, used: set[int]) -> list[int]:
    """These runs, largest first; ties go to the earlier run."""
    runs = [int(run) for run in np.flatnonzero(among) if run not in used]
    return sorted(runs, key=lambda run: (-float(by[run]), run))


def _score_at_exit(outcome: RuleOutcome) -> Floats64:
    """Shape (runs,): the score at which a run exits; meaningless for the others."""
    at = np.where(outcome.out.exited, outcome.table.offsets[:-1] + outcome.out.cue, 0)
    return outcome.table.scores[at] if outcome.table.cues else np.zeros(outcome.table.runs)


def _wasted(outcome: RuleOutcome, first: Ints) -> Ints:
    """Shape (runs,): tokens that an exit at cue `first` would have spared."""
    return np.asarray(outcome.plain - outcome.table.outcomes(first).tokens)


def _count(among: Bools) -> str:
    return f"{int(among.sum())} of {len(among)}"


def excerpt(text: str, offsets: Sequence[int], exit_at: int | None, focus: int, stays: int = 0) -> Excerpt:
    """The text around a cue.

    Args:
        text: The whole text of the run.
        offsets: The character at which each cue starts.
        exit_at: The cue at which the rule exits. None: it doesn't.
        focus: The cue to show.
        stays: Characters of the exit's cue that stay in the text: none where the suffix takes its place.

    >>> excerpt("ab wait cd", [3], 0, 0, stays=4).pieces[1:]
    [Piece(text='wait', cue=0, unwritten=False), Piece(text=' cd', cue=None, unwritten=True)]
    >>> excerpt("ab wait cd", [3], 0, 0).pieces[1]
    Piece(text='wait cd', cue=0, unwritten=True)
    """
    centre = offsets[focus] if offsets else len(text)
    low, high = max(0, centre - BEFORE), min(len(text), centre + AFTER)
    edges = [0, *offsets, len(text)]
    found = []
    for i, (start, end) in enumerate(zip(edges, edges[1:], strict=False)):
        cue = i - 1 if i and low <= start <= high else None
        part = text[max(start, low) : max(min(end, high), low)]
        if cue is not None and cue == exit_at and stays:
            found.append(Piece(part[:stays], cue, False))
            part, cue = part[stays:], None
        if part or cue is not None:
            found.append(Piece(part, cue, exit_at is not None and i > exit_at))
    return Excerpt(low, found, len(text) - high)
