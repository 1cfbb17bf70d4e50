"""Chains: a policy as a list of stages in the order in which they act. The last step is a draw by keyed uniforms.

This file puts stages together and refuses orders that make no sense. It knows no stage by name: a stage declares what
the chain must know of it.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, ClassVar

from ..core.decode import Decode, Floats, Step
from ..core.errors import ControllerError
from ..thinking.markers import Phase
from .candidates import Candidates, check_largest
from .draw import LogitsRow, Row
from .policy import CompositePolicy, Policy
from .stage import Stage

_MODELS_OWN = "temperature(1)"
"""The text of the model's own distribution, which a chain without stages draws from."""


class Chain(CompositePolicy):
    """A sampling policy: stages from left to right, then a draw.

    Raises:
        ControllerError: The order of the stages makes no sense.

    >>> from reasonctl.controller import EDT, TopH
    >>> print(Chain(EDT(t0=0.8, theta=0.4), TopH(0.4)))
    edt(t0=0.8,theta=0.4) | top_h(0.4)
    """

    takes_largest: ClassVar[bool] = False
    """The most probable candidate is taken; nothing is drawn."""

    def __init__(self, *stages: Stage) -> None:
        check_order(stages)
        super().__init__(stages)
        self.stages = stages
        self.stateful = any(stage.stateful for stage in stages)
        self.neutral = all(stage.neutral for stage in stages) and not self.takes_largest
        """The chain draws from the model's own distribution."""

    def start(self) -> Any:
        return tuple(stage.start() for stage in self.stages) if self.stateful else None

    def step(self, state: Any, row: Row) -> tuple[Any, int]:
        held, candidates = self.candidates(state, row)
        token = self.draw(candidates, row)
        return self.accept(held, candidates, token), token

    def candidates(self, state: Any, row: Row) -> tuple[Sequence[Any], Candidates]:
        """(the states that `accept` takes, the candidates that the stages leave of a row)."""
        return run_stages(self.stages, state, row.logits, row)

    def draw(self, candidates: Candidates, row: Row) -> int:
        """Draw one token with this position's first random number."""
        return row.draw(candidates)

    def accept(self, held: Sequence[Any], candidates: Candidates, token: int) -> Any:
        """The state after a token.

        Args:
            held: The states that `candidates` returned.
            candidates: What the token was drawn from.
            token: Its id.
        """
        if not self.stateful:
            return None
        return tuple(
            stage.accept(own, candidates, token) if stage.stateful else own
            for stage, own in zip(self.stages, held, strict=True)
        )

    def samples(self, phase: Phase) -> bool:
        return not self.takes_largest

    def distribution(self, state: Any, row: Row) -> Candidates:
        _, candidates = self.candidates(state, row)
        return candidates

    def probs(self, logits: Floats) -> Floats:
        """Probabilities of all tokens before the first token of a run, from a row of logits alone.

        Raises:
            ControllerError: a stage reads more than the logits.

        >>> import numpy as np
        >>> Chain().probs(np.log([0.75, 0.25])).round(4).tolist()
        [0.75, 0.25]
        """
        return self.distribution(self.start(), LogitsRow(logits)).dense(len(logits))

    def for_drafts(self) -> Policy:
        seeing = [stage for stage in self.stages if stage.drafts]
        return self if len(seeing) == len(self.stages) else self._of(seeing)

    def prepare(self, state: Any, row: Row) -> Generator[Decode, Step, Any]:
        if not self.needs_forwards:
            return state
        held = []
        for stage, own in zip(self.stages, state, strict=True):
            held.append((yield from stage.prepare(own, row)) if stage.needs_forwards else own)
        return tuple(held)

    def end(self, state: Any) -> None:
        if self.needs_forwards:
            for stage, own in zip(self.stages, state, strict=True):
                stage.end(own)

    def explain(self) -> list[str]:
        """One line per stage, in order: what it is, and on which side of the temperature a truncation acts."""
        at = next((i for i, stage in enumerate(self.stages) if stage.kind == "temperature"), None)
        lines = []
        for i, stage in enumerate(self.stages):
            side = ""
            if at is not None and stage.kind == "truncation":
                side = f", {'after' if i > at else 'before'} temperature"
            lines.append(f"{stage} ({stage.kind}{side})")
        return lines

    def __str__(self) -> str:
        return " | ".join(map(str, self.stages)) or _MODELS_OWN

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Chain) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[bool, tuple[Stage, ...]]:
        return self.takes_largest, () if self.neutral else self.stages

    def _of(self, stages: Sequence[Stage]) -> Chain:
        """A chain of this kind."""
        return Chain(*stages)


class Greedy(Chain):
    """The most probable token; the lowest id wins ties. Constraints may come before it."""

    takes_largest = True

    def __init__(self, *constraints: Stage) -> None:
        for stage in constraints:
            if stage.kind != "constraint":
                raise ControllerError(
                    f"greedy stands alone: {stage} changes nothing about the most probable token; drop one of them"
                )
        super().__init__(*constraints)

    def draw(self, candidates: Candidates, row: Row) -> int:
        token = int(candidates.logits.argmax())
        check_largest(candidates.logits[token])
        return token

    def distribution(self, state: Any, row: Row) -> Candidates:
        return super().distribution(state, row).keep_top()

    def __str__(self) -> str:
        return " | ".join([*map(str, self.stages), "greedy"])

    def _of(self, stages: Sequence[Stage]) -> Chain:
        return Greedy(*stages)


def run_stages(stages: Sequence[Stage], state: Any, logits: Floats, row: Row) -> tuple[Sequence[Any], Candidates]:
    """(the states that `accept` takes, the candidates that the stages leave of `logits`); state None for no states."""
    candidates = Candidates(logits)
    if state is None:
        for stage in stages:
            _, candidates = stage.step(None, candidates, row)
        return (), candidates
    held = []
    for stage, own in zip(stages, state, strict=True):
        own, candidates = stage.step(own, candidates, row)
        held.append(own)
    return held, candidates


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
    """Why `then` can't stand after `first`."""
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
        return f"{then.name} would change the distribution whose surprise {first.name} steers; put it before"
    if then.needs_whole_row and first.truncates:
        return f"{then.name} measures the spread of the whole row; put it before {first.name}"
    return None
