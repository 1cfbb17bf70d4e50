"""An exit rule around another one: everything is the inner rule's, but what a subclass changes."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from ..core.decode import Decode, Step
from ..core.trace import Decision, Trace
from .exit_rule import AdmittedRun, Boundary, ExitRule, Promised
from .idle import IdleRun


class RuleWrapper(ExitRule):
    """Does what the inner rule does."""

    def __init__(self, inner: ExitRule) -> None:
        """inner: the rule that decides."""
        self.inner = inner
        self.cues, self.suffix, self.markers = inner.cues, inner.suffix, inner.markers
        self.max_cues, self.answer_ends, self.form = inner.max_cues, inner.answer_ends, inner.form
        self.later_spans, self.always_answer, self.efforts = inner.later_spans, inner.always_answer, inner.efforts
        self.trials, self.reads = inner.trials, inner.reads

    def decide(self, at: Boundary) -> Generator[Decode, Step, Decision]:
        """As the inner rule decides."""
        return self.inner.decide(at)

    def layers(self, depth: int) -> tuple[int, ...]:
        """The inner rule's."""
        return self.inner.layers(depth)

    def at(self, *, risk: float) -> ExitRule:
        """The inner rule at another risk, without this one around it."""
        return self.inner.at(risk=risk)

    @property
    def why(self) -> str:
        """The inner rule's line."""
        return self.inner.why

    def in_use(self, policy: str, max_new_tokens: int) -> list[str]:
        """The inner rule's differences."""
        return self.inner.in_use(policy, max_new_tokens)

    def check(self, model: Any) -> list[str]:
        """The inner rule's warnings."""
        return self.inner.check(model)

    def expected_saving(self, position: int) -> float | None:
        """The inner rule's."""
        return self.inner.expected_saving(position)

    @property
    def promised(self) -> Promised | None:
        """The inner rule's."""
        return self.inner.promised

    def for_run(self, run: AdmittedRun) -> ExitRule:
        """The inner rule's, without this one around it."""
        return self.inner.for_run(run)

    def idle(self) -> IdleRun | None:
        """The inner rule's."""
        return self.inner.idle()

    def verdict(self, *, right: bool, exited: bool) -> None:
        """Pass it on."""
        self.inner.verdict(right=right, exited=exited)

    def begin(self, trace: Trace) -> None:
        """Pass it on."""
        self.inner.begin(trace)

    def finish(self, trace: Trace) -> None:
        """Pass it on."""
        self.inner.finish(trace)

    def abandon(self, trace: Trace) -> None:
        """Pass it on."""
        self.inner.abandon(trace)
