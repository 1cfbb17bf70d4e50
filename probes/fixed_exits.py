"""Exit rules that read nothing: those that a calibrated rule is compared with."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass

from reasonctl.controller import (
    AnswerEnds,
    Boundary,
    ControllerError,
    Cues,
    Decision,
    Decode,
    ExitForm,
    ExitRule,
    Markers,
    Step,
)


def decision_at(at: Boundary, score: float, threshold: float) -> Decision:
    """Exit where the score is above the threshold."""
    position = at.cue.first - at.prompt
    return Decision(score > threshold, at.cue.name, at.cue.index, position, score, threshold)


@dataclass(frozen=True, kw_only=True)
class NeverExit(ExitRule):
    """Meets the cues and never exits: the full run, with its cues in the trace."""

    cues: Cues
    """What counts as a cue."""
    suffix: str
    """The text that would close thinking."""
    markers: Markers | None = None
    """The texts that open and close thinking. None: the whole completion is the span."""
    max_cues: int = 1_000_000
    """Most cues of a run that are recorded."""
    answer_ends: AnswerEnds = "model"
    """What would end the answer."""
    form: ExitForm = "replace"
    """What would become of the cue."""
    trials: bool = False
    """It never tries an answer."""

    def decide(self, at: Boundary) -> Generator[Decode, Step, Decision]:
        return decision_at(at, 0.0, 1.0)
        yield  # a generator that needs no forward of its own


@dataclass(frozen=True, kw_only=True)
class FixedExit(NeverExit):
    """Exits at the same cue of every run that has so many."""

    index: int
    """Number of the cue, from 0."""

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.max_cues:
            raise ControllerError(f"exit at cue {self.index}; it must be between 0 and {self.max_cues - 1}")

    def decide(self, at: Boundary) -> Generator[Decode, Step, Decision]:
        return decision_at(at, float(at.cue.index), math.nextafter(float(self.index), -math.inf))
        yield  # a generator that needs no forward of its own
