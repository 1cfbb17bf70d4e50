"""Chains: a policy as a list of stages, in the order in which they act, ending in a draw from the keyed uniforms.

Owns how stages are put together and which orders make no sense.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

import numpy as np

from ..core.decode import Decode, Floats, Step
from ..core.errors import ControllerError
from ..core.tokenizer import Tokenizer
from .candidates import Candidates, Indices
from .policy import beside, checked, layers_of
from .row import NO_ROW, Row, RunContext
from .stage import Stage
from .stages.temperature import Temperature
from .stages.truncation import TopNSigma


class Chain:
    """A sampling policy: stages from left to right, then a draw. Raises ControllerError for an order without sense.

    >>> from reasonctl.controller import EDT, TopH
    >>> print(Chain(EDT(t0=0.8, theta=0.4), TopH(0.4)))
    edt(t0=0.8,theta=0.4) | top_h(0.4)
    """

    suppresses_cues = False

    def __init__(self, *stages: Stage) -> None:
        check_order(stages)
        # No stage at all is the model's own law, which has a text too.
        self.stages: tuple[Stage, ...] = stages or (() if self._kind() else (Temperature(1.0),))
        self.stateful = any(stage.stateful for stage in stages)
        self.asks = any(stage.asks for stage in stages)
        self.reads_text = any(stage.reads_text for stage in stages)
        self.phased = any(stage.phased for stage in stages)
        # A subclass may say so of itself.
        self.suppresses_cues = self.suppresses_cues or any(stage.suppresses_cues for stage in stages)

    def start(self) -> Any:
        return tuple(stage.start() for stage in self.stages) if self.stateful else None

    def check_run(self, frame: RunContext) -> None:
        for stage in self.stages:
            stage.check_run(frame)

    def prepare(self, state: Any, row: Row) -> Generator[Decode, Step, Any]:
        held = []
        for stage, own in zip(self.stages, state, strict=True):
            held.append((yield from stage.prepare(own, row)) if stage.asks else own)
        return tuple(held)

    def end(self, state: Any) -> None:
        for stage, own in zip(self.stages, state, strict=True):
            if stage.asks:
                stage.end(own)

    def layers(self, depth: int) -> tuple[int, ...]:
        return layers_of(self.stages, depth)

    def check(self, model: Any) -> list[str]:
        return checked(self.stages, model)

    def beside(self, tokenizer: Tokenizer, prompt: Sequence[int]) -> tuple[int, ...]:
        return beside(self.stages, tokenizer, prompt)

    def step(self, state: Any, row: Row) -> tuple[Any, int]:
        return self.drawn(*self.scores(state, row), row)

    def drawn(self, held: Sequence[Any] | None, scores: Candidates, row: Row) -> tuple[Any, int]:
        """The states after a draw from what the stages left, and the token; `held` are their states half-way."""
        token = self.choose(scores, row)
        if not self.stateful or held is None:
            return None, token
        return tuple(
            stage.accept(own, scores, token) if stage.stateful else own
            for stage, own in zip(self.stages, held, strict=True)
        ), token

    def scores(self, state: Any, row: Row) -> tuple[Sequence[Any], Candidates]:
        """What the stages leave of a row, and their states half-way: `accept` takes them on."""
        return run_stages(self.stages, state, row.logits, row)

    def choose(self, scores: Candidates, row: Row) -> int:
        """The token that this position's first uniform draws."""
        return row.draw(scores.weights, scores.ids)

    def law(self, logits: Floats, row: Any = None) -> tuple[Indices | None, Floats]:
        """(token ids, weights) of the survivors; ids None = all of them. Weights need no sum of 1.

        Without a row only stages that look at nothing but the logits can be asked; others raise ControllerError.
        """
        _, scores = run_stages(self.stages, self.start(), logits, NO_ROW if row is None else row)
        return scores.ids, scores.weights

    def explain(self) -> list[str]:
        """One line per stage, in order: what it is, and on which side of the temperature a truncation acts."""
        at = next((i for i, stage in enumerate(self.stages) if stage.kind == "temperature"), None)
        lines = []
        for i, stage in enumerate(self.stages):
            side = (
                "" if at is None or stage.kind != "truncation" else f", {'after' if i > at else 'before'} temperature"
            )
            lines.append(f"{stage} ({stage.kind}{side})")
        return lines

    def __str__(self) -> str:
        return " | ".join(map(str, self.stages))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Chain) and self._kind() == other._kind() and self.stages == other.stages

    def __hash__(self) -> int:
        return hash((self._kind(), self.stages))

    def _kind(self) -> bool:
        return isinstance(self, Greedy)


def run_stages(stages: Sequence[Stage], state: Any, logits: Floats, row: Any) -> tuple[Sequence[Any], Candidates]:
    """A row's candidates after all stages, and the stages' states."""
    scores = Candidates(logits)
    if state is None:
        for stage in stages:
            _, scores = stage.step(None, scores, row)
        return (), scores
    held = []
    for stage, own in zip(stages, state, strict=True):
        own, scores = stage.step(own, scores, row)
        held.append(own)
    return held, scores


class Greedy(Chain):
    """The most probable token; the lowest id wins ties. Constraints may come before it."""

    def __init__(self, *constraints: Stage) -> None:
        for stage in constraints:
            if stage.kind != "constraint":
                raise ControllerError(
                    f"greedy stands alone: {stage} changes nothing about the most probable token; drop one of them"
                )
        super().__init__(*constraints)

    def choose(self, scores: Candidates, row: Row) -> int:
        token = int(scores.logits.argmax())
        if not -np.inf < scores.logits[token] < np.inf:
            _ = scores.shifted  # says why
        return token

    def __str__(self) -> str:
        return " | ".join([*map(str, self.stages), "greedy"])


def check_order(stages: Sequence[Stage]) -> None:
    """Raises ControllerError for a chain that makes no sense, with the reason."""
    seen: list[Stage] = []
    for stage in stages:
        for earlier in seen:
            reason = _clash(earlier, stage)
            if reason:
                raise ControllerError(f"policy {' | '.join(map(str, stages))!r}: {reason}")
        seen.append(stage)


def _clash(first: Stage, then: Stage) -> str | None:
    """Why `then` can't stand behind `first`."""
    kinds = (first.kind, then.kind)
    if type(first) is type(then):
        return f"it names {first.name} twice; keep one"
    if then.kind == "constraint" and first.kind != "constraint":
        return f"{then.name} acts on the model's own logits; put it before {first.name}"
    if kinds == ("temperature", "temperature"):
        return f"{first.name} and {then.name} both set the temperature; keep one"
    if "feedback" in kinds and (set(kinds) == {"feedback"} or first.truncates or then.truncates):
        own = first if first.kind == "feedback" else then
        other = then if own is first else first
        return f"{own.name} sets the truncation itself, and {other.name} would take it off its target; keep one"
    if kinds == ("feedback", "temperature"):
        return f"{then.name} would change the law whose surprise {first.name} steers; put it before"
    if isinstance(then, TopNSigma) and first.truncates:
        return f"top_n_sigma measures the spread of the whole row; put it before {first.name}"
    return None
