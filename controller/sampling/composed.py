"""Policies made of policies: one for each phase of a run, and one after the constraints of a call."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

from ..core.decode import Decode, Step
from ..core.trace import Trace
from ..thinking.markers import Phase
from .candidates import Candidates
from .chain import Chain, run_stages
from .draw import Row
from .policy import CompositePolicy, Policy, StatefulWrapper, WrapperState
from .stage import Stage


class PerPhase(CompositePolicy):
    """One policy while thinking (and before), another one for the answer; each keeps its own state.

    Where a phase ends is read from the text: by the exit rule's markers, or by the controller's.

    >>> from reasonctl.controller import parse_policy
    >>> print(parse_policy("think: temperature(1) | min_p(0.05); answer: greedy"))
    think: temperature(1) | min_p(0.05) ; answer: greedy
    """

    phased = True
    reads_text = True

    def __init__(self, think: Policy, answer: Policy) -> None:
        super().__init__((think, answer))
        self.think = think
        self.answer = answer
        # Exit rules wait for words while the model thinks; what the answer may hold is nothing to them.
        self.suppresses_cues = think.suppresses_cues

    def start(self) -> Any:
        return self.think.start(), self.answer.start()

    def step(self, state: Any, row: Row) -> tuple[Any, int]:
        think, answer = state
        if row.phase == "answer":
            answer, token = self.answer.step(answer, row)
        else:
            think, token = self.think.step(think, row)
        return (think, answer), token

    def samples(self, phase: Phase) -> bool:
        return (self.answer if phase == "answer" else self.think).samples(phase)

    def distribution(self, state: Any, row: Row) -> Candidates:
        think, answer = state
        if row.phase == "answer":
            return self.answer.distribution(answer, row)
        return self.think.distribution(think, row)

    def for_drafts(self) -> Policy:
        return PerPhase(self.think.for_drafts(), self.answer.for_drafts())

    def prepare(self, state: Any, row: Row) -> Generator[Decode, Step, Any]:
        think, answer = state
        if row.phase == "answer":
            return think, (yield from self.answer.prepare(answer, row))
        return (yield from self.think.prepare(think, row)), answer

    def end(self, state: Any) -> None:
        think, answer = state
        self.think.end(think)
        self.answer.end(answer)

    def finish(self, state: Any, trace: Trace) -> None:
        think, answer = state
        self.think.finish(think, trace)
        self.answer.finish(answer, trace)

    def explain(self) -> list[str]:
        phases = (("think", self.think), ("answer", self.answer))
        return [f"{phase}: {line}" for phase, policy in phases for line in policy.explain()]

    def __str__(self) -> str:
        return f"think: {self.think} ; answer: {self.answer}"

    def __repr__(self) -> str:
        return f"PerPhase({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PerPhase) and self.parts == other.parts

    def __hash__(self) -> int:
        return hash(self.parts)


class Constrained(StatefulWrapper):
    """Any policy after constraints: it sees the row with changed logits. The state holds theirs and its own."""

    def __init__(self, constraints: Sequence[Stage], inner: Policy) -> None:
        super().__init__(inner, *constraints)
        self.constraints = tuple(constraints)

    def begin(self) -> tuple[Any, ...]:
        return tuple(stage.start() for stage in self.constraints)

    def step(self, state: WrapperState, row: Row) -> tuple[WrapperState, int]:
        held, candidates = run_stages(self.constraints, state.own, row.logits, row)
        inner, token = self.inner.step(state.inner, row.replaced(candidates.logits))
        stages = zip(self.constraints, held, strict=True)
        return WrapperState(inner, tuple(stage.accept(half, candidates, token) for stage, half in stages)), token

    def distribution(self, state: WrapperState, row: Row) -> Candidates:
        _, candidates = run_stages(self.constraints, state.own, row.logits, row)
        return self.inner.distribution(state.inner, row.replaced(candidates.logits))

    def for_drafts(self) -> Policy:
        seeing = [stage for stage in self.constraints if stage.drafts]
        inner = self.inner.for_drafts()
        return Constrained(seeing, inner) if seeing else inner

    def explain(self) -> list[str]:
        return [*(f"{stage} ({stage.kind})" for stage in self.constraints), *self.inner.explain()]

    def __str__(self) -> str:
        # The model's own distribution adds nothing to what stands before it.
        adds_nothing = isinstance(self.inner, Chain) and self.inner.neutral and bool(self.constraints)
        return " | ".join(map(str, self.constraints if adds_nothing else (*self.constraints, self.inner)))
