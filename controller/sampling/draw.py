"""Draws a token: the row of logits that a policy reads, and the one draw from the weights that it ends with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from ..core.decode import ROOT, Engine, Floats, Proposal, Step
from ..core.errors import ControllerError
from ..core.randomness import SAMPLE, VERIFY, Keys
from ..core.tokenizer import Tokenizer
from ..thinking.markers import Phase
from .candidates import Candidates, check_largest, computed
from .rejection import verify


@dataclass(frozen=True)
class RunContext:
    """What stays the same during a run, as a policy sees it."""

    start: int = 0
    """Tokens of the prompt."""
    eos: frozenset[int] = frozenset()
    """Tokens that end the run."""
    tokenizer: Tokenizer | None = None
    """The model's; None where a policy that reads no text runs without one."""
    engine: Engine | None = None
    """The model, for policies that ask for forwards of their own."""
    unread: int = 0
    """Of the prompt's first tokens those whose ids mean nothing: embeddings stand in their places."""
    known: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)
    """What stages have read of the tokenizer, so that each token is read once a run."""

    def read(self, why: str) -> Tokenizer:
        """The tokenizer.

        Args:
            why: Who needs it, for the error.

        Raises:
            ControllerError: There is none.
        """
        if self.tokenizer is None:
            raise ControllerError(f"{why} reads text; pass the model's tokenizer")
        return self.tokenizer


_NO_CONTEXT = RunContext()

_TOGETHER = 1 << 18
"""Logits that are computed at once: what stays in a processor's cache."""


class Row:
    """What a policy may read: one row of the model, and where it stands in the run."""

    __slots__ = ("_node", "_step", "context", "keys", "phase", "proposal", "score", "tokens")

    tokens: Sequence[int]
    """Everything before the token to be drawn, prompt included; do not change it."""
    phase: Phase
    """Where the token stands: before, in or after the thinking span."""
    keys: Keys
    """The run's keyed uniforms."""
    context: RunContext
    """The run."""
    score: float | None
    """What the exit rule said at the last cue; None before the first one."""
    proposal: Proposal | None
    """How the draft's tokens at this place were drawn, if they were."""

    def __init__(
        self,
        step: Step,
        node: int,
        tokens: Sequence[int],
        phase: Phase,
        keys: Keys,
        context: RunContext = _NO_CONTEXT,
        score: float | None = None,
        proposal: Proposal | None = None,
    ) -> None:
        self._step = step
        self._node = node
        self.tokens = tokens
        self.phase = phase
        self.keys = keys
        self.context = context
        self.score = score
        self.proposal = proposal

    @property
    def logits(self) -> Floats:
        """Shape (vocabulary,); a view: copy before changing it."""
        return self._step.logits(self._node)

    def hidden(self, layer: int) -> Floats:
        """The state after block `layer`, shape (width,); the policy must name the block in `Policy.layers`."""
        return self._step.hidden(self._node, layer)

    def uniform(self, index: int = 0) -> float:
        """The keyed uniforms of this position: 0 draws the token, 1 is for stages with a choice of their own."""
        return self.keys.uniform(len(self.tokens), SAMPLE, index)

    def draw(self, candidates: Candidates) -> int:
        """Draw a token of the candidates. A sampling policy ends with this call.

        A drafted token is accepted as often as the target's distribution allows.
        """
        if self.proposal is None:
            return candidates.token(draw(candidates.weights, self.uniform()))
        target = candidates.dense(max(len(self.logits), len(self.proposal.probs)))
        accepted, residual = verify(target, self.proposal, self._test)
        return draw(residual, self.uniform()) if accepted is None else accepted

    def replaced(self, logits: Floats) -> Row:
        """The same row with other logits."""
        step = _Replaced(self._step, self._node, logits)
        return Row(step, ROOT, self.tokens, self.phase, self.keys, self.context, self.score, self.proposal)

    @property
    def raw(self) -> Floats:
        """Shape (vocabulary,): the model's own logits, before the constraints of a call; a view."""
        step, node = self._step, self._node
        while isinstance(step, _Replaced):
            node, step = step.node, step.step
        return step.logits(node)

    def _test(self, index: int) -> float:
        return self.keys.uniform(len(self.tokens), VERIFY, index)


class LogitsRow(Row):
    """A row of logits without a run, to compute what a policy would draw from. Reading anything else is an error."""

    __slots__ = ()

    def __init__(self, logits: Floats) -> None:
        self._step = OneRow(logits)
        self._node = ROOT

    def replaced(self, logits: Floats) -> Row:
        return LogitsRow(logits)

    def __getattr__(self, name: str) -> NoReturn:
        # Slots of Row that were never filled.
        raise ControllerError(f"this policy reads more than logits (the row's {name}); give it a row of a run")


@dataclass(frozen=True, slots=True)
class OneRow:
    """A Step that holds one row of logits and no hidden state."""

    row: Floats
    """Shape (vocabulary,): the logits of every node."""

    def logits(self, node: int) -> Floats:
        return self.row

    def hidden(self, node: int, layer: int) -> Floats:
        raise ControllerError("this policy reads more than logits (the row's hidden state); give it a row of a run")


@dataclass(frozen=True, slots=True)
class _Replaced:
    """A Step of one row whose logits were replaced."""

    step: Step
    """Gives the hidden states."""
    node: int
    """The row's node in `step`."""
    row: Floats
    """Shape (vocabulary,): the new logits."""

    def logits(self, node: int) -> Floats:
        return self.row

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
    mass = cumulative(weights)
    # side="right": an index of zero weight can't be hit, not even by a uniform of exactly 0.
    return min(int(mass.searchsorted(uniform * mass[-1], side="right")), len(weights) - 1)


def cumulative(weights: Floats) -> npt.NDArray[np.float64]:
    """The weights' cumulative sum, which ends in their total. Shape (candidates,).

    Raises:
        ControllerError: the total isn't finite and positive.
    """
    mass = np.cumsum(weights, dtype=np.float64)
    if not 0.0 < mass[-1] < np.inf:
        raise ControllerError(
            f"the sampling distribution is broken: its total mass is {mass[-1]} (NaN or infinite logits?)"
        )
    return mass


def draw_rows(logits: Floats, uniforms: Sequence[float]) -> list[int]:
    """A token of each row, drawn exactly as from the row's `Candidates`, with less work for a small vocabulary.

    Args:
        logits: shape (rows, vocabulary).
        uniforms: one for each row.

    Raises:
        ControllerError: nothing can be drawn from a row.
    """
    rows, tokens = max(1, _TOGETHER // logits.shape[1]), list[int]()
    for first in range(0, len(logits), rows):
        part = computed(logits[first : first + rows])
        top = part.max(axis=1)
        for largest in top.tolist():
            check_largest(largest)
        mass = np.cumsum(np.exp(part - top[:, None]), axis=1, dtype=np.float64)
        targets = mass[:, -1] * uniforms[first : first + rows]
        tokens += np.minimum((mass <= targets[:, None]).sum(axis=1), part.shape[1] - 1).tolist()
    return tokens
