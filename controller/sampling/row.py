"""The row that a policy reads, and the draw of a token from its weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.decode import ROOT, Engine, Floats, Proposal, Step
from ..core.errors import ControllerError
from ..core.randomness import SAMPLE, VERIFY, Keys
from ..thinking.markers import Phase
from .rejection import verify

if TYPE_CHECKING:
    from ..core.tokenizer import Tokenizer


@dataclass(frozen=True)
class RunContext:
    """What stays the same in a run: where the prompt ends, what ends the run, and the model behind it.

    known: where stages keep what they have read of the tokenizer, so that each token is read once a run.
    """

    start: int = 0
    eos: frozenset[int] = frozenset()
    tokenizer: Tokenizer | None = None
    engine: Engine | None = None
    known: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)

    def read(self, why: str) -> Tokenizer:
        """The tokenizer; ControllerError if there is none."""
        if self.tokenizer is None:
            raise ControllerError(f"{why} reads text; pass the model's tokenizer")
        return self.tokenizer


_NO_FRAME = RunContext()


class Row:
    """What a policy may look at: one verified row, and where it stands.

    tokens: everything before the token to be drawn (prompt included); do not change it.
    score: what the exit rule said at the last cue; None before the first one.
    proposal: how the draft's tokens at this place were drawn, if they were.
    """

    __slots__ = ("_node", "_step", "frame", "keys", "phase", "proposal", "score", "tokens")

    def __init__(
        self,
        step: Step,
        node: int,
        tokens: Sequence[int],
        phase: Phase,
        keys: Keys,
        frame: RunContext = _NO_FRAME,
        score: float | None = None,
        proposal: Proposal | None = None,
    ) -> None:
        self._step, self._node, self.tokens = step, node, tokens
        self.phase, self.keys, self.frame, self.score, self.proposal = phase, keys, frame, score, proposal

    @property
    def logits(self) -> Floats:
        """Shape (vocabulary,); a view: copy before changing it."""
        return self._step.logits(self._node)

    def hidden(self, layer: int) -> Floats:
        """Shape (width,)."""
        return self._step.hidden(self._node, layer)

    def uniform(self, index: int = 0) -> float:
        """The keyed uniforms of this position: 0 draws the token, 1 is for stages with a choice of their own."""
        return self.keys.uniform(len(self.tokens), SAMPLE, index)

    def draw(self, weights: Floats, ids: Any = None) -> int:
        """A token of this law, the draft's if it may be: how every policy that samples ends.

        weights: non-negative, no sum of 1 needed. ids: the tokens they belong to; None = all, in order.
        """
        if self.proposal is not None:
            token, weights, ids = verify(weights, ids, self.proposal, self._test)
            if token is not None:
                return token
        index = draw(weights, self.uniform())
        return index if ids is None else int(ids[index])

    def replaced(self, logits: Floats) -> Row:
        """The same row with other logits."""
        step = _Replaced(self._step, self._node, logits)
        return type(self)(step, ROOT, self.tokens, self.phase, self.keys, self.frame, self.score, self.proposal)

    @property
    def raw(self) -> Floats:
        """Shape (vocabulary,): the model's own logits, before the constraints of a call; a view."""
        step, node = self._step, self._node
        while isinstance(step, _Replaced):
            node, step = step.node, step.step
        return step.logits(node)

    def _test(self, index: int) -> float:
        return self.keys.uniform(len(self.tokens), VERIFY, index)


class _NoRow:
    """In the place of a Row where a policy is asked about logits alone."""

    def __getattr__(self, name: str) -> Any:
        raise ControllerError(f"this policy looks at more than logits (at the row's {name}); give it a row")


NO_ROW: Any = _NoRow()


@dataclass(frozen=True, slots=True)
class _Replaced:
    """A Step of one row whose logits were replaced."""

    step: Step
    node: int
    scores: Floats

    def logits(self, node: int) -> Floats:
        return self.scores

    def hidden(self, node: int, layer: int) -> Floats:
        return self.step.hidden(self.node, layer)


class CopiedStep:
    """A Step's rows copied, so that they survive the forwards that a policy asks for."""

    def __init__(self, step: Step, drafted: int, layers: Sequence[int]) -> None:
        nodes = range(ROOT, drafted)
        self._logits = {node: step.logits(node).copy() for node in nodes}
        self._hidden = {(node, layer): step.hidden(node, layer).copy() for node in nodes for layer in layers}

    def logits(self, node: int) -> Floats:
        return self._logits[node]

    def hidden(self, node: int, layer: int) -> Floats:
        return self._hidden[node, layer]


def draw(weights: Floats, uniform: float) -> int:
    """Index drawn from non-negative weights by inverting their cumulative sum at `uniform`."""
    mass = np.cumsum(weights, dtype=np.float64)
    total = mass[-1]
    if not 0.0 < total < np.inf:
        raise ControllerError(f"the sampling law is broken: its total mass is {total} (NaN or infinite logits?)")
    # side="right": an index of zero weight can't be hit, not even by a uniform of exactly 0.
    return min(int(mass.searchsorted(uniform * total, side="right")), len(weights) - 1)
