"""Policies made of policies: one for each phase of a run, and one behind the constraints of a call."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

from ..core.decode import Decode, Step
from ..core.tokenizer import Tokenizer
from ..core.trace import Trace
from .chain import Chain, run_stages
from .policy import Policy, asks, beside, check_run, checked, end, finish, layers_of, prepared, suppresses_cues
from .row import Row, RunContext
from .stage import Stage


class PerPhase:
    """One policy while thinking (and before), another one for the answer; each keeps its own state.

    Where a phase ends is read from the text: by the exit rule's markers, or by the controller's.

    >>> from reasonctl.controller import parse_policy
    >>> print(parse_policy("think: temperature(1) | min_p(0.05); answer: greedy"))
    think: temperature(1) | min_p(0.05) ; answer: greedy
    """

    phased = reads_text = True

    def __init__(self, think: Policy, answer: Policy) -> None:
        self.think, self.answer = think, answer
        self.asks = asks(think) or asks(answer)
        self.suppresses_cues = suppresses_cues(think)

    def start(self) -> Any:
        return self.think.start(), self.answer.start()

    def check_run(self, frame: RunContext) -> None:
        check_run(self.think, frame)
        check_run(self.answer, frame)

    def prepare(self, state: Any, row: Row) -> Generator[Decode, Step, Any]:
        if row.phase == "answer":
            return state[0], (yield from prepared(self.answer, state[1], row))
        return (yield from prepared(self.think, state[0], row)), state[1]

    def end(self, state: Any) -> None:
        end(self.think, state[0])
        end(self.answer, state[1])

    def layers(self, depth: int) -> tuple[int, ...]:
        return layers_of((self.think, self.answer), depth)

    def check(self, model: Any) -> list[str]:
        return checked((self.think, self.answer), model)

    def beside(self, tokenizer: Tokenizer, prompt: Sequence[int]) -> tuple[int, ...]:
        return beside((self.think, self.answer), tokenizer, prompt)

    def finish(self, state: Any, trace: Trace) -> None:
        finish(self.think, state[0], trace)
        finish(self.answer, state[1], trace)

    def step(self, state: Any, row: Row) -> tuple[Any, int]:
        if row.phase == "answer":
            own, token = self.answer.step(state[1], row)
            return (state[0], own), token
        own, token = self.think.step(state[0], row)
        return (own, state[1]), token

    def explain(self) -> list[str]:
        """One line per stage, in order."""
        parts = (("think", self.think), ("answer", self.answer))
        return [f"{name}: {line}" for name, policy in parts if isinstance(policy, Chain) for line in policy.explain()]

    def __str__(self) -> str:
        return f"think: {self.think} ; answer: {self.answer}"

    def __repr__(self) -> str:
        return f"PerPhase({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PerPhase) and (self.think, self.answer) == (other.think, other.answer)

    def __hash__(self) -> int:
        return hash((self.think, self.answer))


class Constrained:
    """Any policy behind constraints: it sees the row with changed logits. Their states travel with the node too."""

    def __init__(self, constraints: Sequence[Stage], inner: Policy) -> None:
        self.constraints, self.inner, self.asks = tuple(constraints), inner, asks(inner)
        self.phased = getattr(inner, "phased", False) or any(stage.phased for stage in self.constraints)
        self.suppresses_cues = suppresses_cues(inner) or any(stage.suppresses_cues for stage in self.constraints)

    def __str__(self) -> str:
        # The model's own law adds nothing to what stands before it.
        own = isinstance(self.inner, Chain) and self.inner == Chain() and bool(self.constraints)
        return " | ".join(map(str, self.constraints if own else (*self.constraints, self.inner)))

    def start(self) -> Any:
        return tuple(stage.start() for stage in self.constraints), self.inner.start()

    def check_run(self, frame: RunContext) -> None:
        for stage in self.constraints:
            stage.check_run(frame)
        check_run(self.inner, frame)

    def prepare(self, state: Any, row: Row) -> Generator[Decode, Step, Any]:
        return state[0], (yield from prepared(self.inner, state[1], row))

    def end(self, state: Any) -> None:
        end(self.inner, state[1])

    def layers(self, depth: int) -> tuple[int, ...]:
        return layers_of((*self.constraints, self.inner), depth)

    def check(self, model: Any) -> list[str]:
        return checked((*self.constraints, self.inner), model)

    def beside(self, tokenizer: Tokenizer, prompt: Sequence[int]) -> tuple[int, ...]:
        return beside((self.inner,), tokenizer, prompt)

    def finish(self, state: Any, trace: Trace) -> None:
        finish(self.inner, state[1], trace)

    def step(self, state: Any, row: Row) -> tuple[Any, int]:
        held, scores = run_stages(self.constraints, state[0], row.logits, row)
        own, token = self.inner.step(state[1], row.replaced(scores.logits))
        stages = zip(self.constraints, held, strict=True)
        return (tuple(stage.accept(half, scores, token) for stage, half in stages), own), token
