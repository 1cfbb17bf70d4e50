"""What the steps of one run cost: the curves of both models, and the seconds of the step that is being made."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from ...core.decode import Asking, Clock, Engine
from .cost import CostCurve, SharedCurve, Stopwatch
from .cost_cache import known_curve

CATCH_UP = 32
"""Most rows of a draft model's forward that is timed. A larger one catches up with the text, not a step."""


class CurvePair(NamedTuple):
    """What forwards of the two models cost."""

    target: CostCurve
    """The target model's."""
    draft: CostCurve
    """The draft model's."""


class Prices(NamedTuple):
    """What forwards of the two models cost a run that shares them with others."""

    target: SharedCurve
    """The target model's."""
    draft: SharedCurve
    """The draft model's."""


class Curves(ABC):
    """Where a run's curves come from."""

    @abstractmethod
    def pair(self, tokens: Sequence[int]) -> Asking[CurvePair]:
        """The curves to plan with now; may ask for forwards, to measure them.

        Args:
            tokens: The run's tokens so far, to feed while measuring.
        """


class EngineCurves(Curves):
    """The curves of two engines, measured at first use unless they are given."""

    def __init__(self, given: CurvePair | None, target: Engine, draft: Engine) -> None:
        self._pair = given
        self._target = target
        self._draft = draft

    def pair(self, tokens: Sequence[int]) -> Asking[CurvePair]:
        if self._pair is None:
            target = yield from known_curve(self._target, tokens)
            draft = yield from known_curve(self._draft, tokens)
            self._pair = CurvePair(target, draft)
        return self._pair


class StepMeter:
    """Adds up the seconds of a step and corrects the curves by them.

    Args:
        clock: Holds the seconds of the target's last forward.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.curves: CurvePair | None = None
        """What the steps are priced by; None until a plan has asked for them."""
        self._watch: Stopwatch | None = None
        self._drafting: float | None = None
        """Seconds of the drafter's side of this step; None once a forward of it could not be timed."""

    def use(self, curves: CurvePair) -> None:
        """Price by these curves from now on."""
        if self.curves is None or self.curves.target is not curves.target:
            self._watch = Stopwatch(curves.target, self.clock)
        self.curves = curves

    def begin_draft(self) -> None:
        """The drafter begins its side of a step."""
        self._drafting = 0.0

    def note_work(self, seconds: float) -> None:
        """The drafter worked so long between its forwards."""
        if self._drafting is not None:
            self._drafting += seconds

    def note_forward(self, rows: int, seconds: float | None, context: int) -> None:
        """The draft model made a forward of so many rows after `context` tokens."""
        if rows > CATCH_UP or seconds is None:
            self._drafting = None
            return
        self.note_work(seconds)
        if self.curves is not None:
            self.curves.draft.note(rows, seconds, context)

    def begin_step(self, context: int, owed: int = 0) -> None:
        """The target's forward comes next, after `context` tokens, and feeds so many owed ones again."""
        if self._watch is not None:
            self._watch.begin(context, owed)

    def end_step(self, rows: int) -> None:
        """The target's forward had so many rows."""
        if self._watch is not None:
            self._watch.end(rows)

    def step_seconds(self) -> float | None:
        """What the step took on both sides; None where a part of it could not be timed."""
        if self._drafting is None or self.clock.seconds is None:
            return None
        return self._drafting + self.clock.seconds

    def plain_due(self, ratio: float) -> bool:
        """Whether a plain step should show its price; see `CostCurve.plain_due`."""
        return self.curves is not None and self.curves.target.plain_due(ratio)
