"""Policies: from one row of the target's logits to one token. Pure: state in, state out.

Owns the sampling law; knows neither models nor drafts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from .decode import ROOT, Floats, Proposal, Step
from .errors import ControllerError
from .randomness import SAMPLE, VERIFY, Keys
from .verify import verify

Phase = Literal["before", "think", "answer"]


class Row:
    """What a policy may look at: one verified row, and where it stands.

    tokens: everything before the token to be drawn (prompt included); do not change it.
    proposal: how the draft's tokens at this place were drawn, if they were.
    """

    __slots__ = ("_node", "_step", "keys", "phase", "proposal", "tokens")

    def __init__(
        self, step: Step, node: int, tokens: Sequence[int], phase: Phase, keys: Keys, proposal: Proposal | None = None
    ) -> None:
        self._step, self._node = step, node
        self.tokens, self.phase, self.keys, self.proposal = tokens, phase, keys, proposal

    @property
    def logits(self) -> Floats:
        """Shape (vocabulary,); a view: copy before changing it."""
        return self._step.logits(self._node)

    def hidden(self, layer: int) -> Floats:
        """Shape (width,)."""
        return self._step.hidden(self._node, layer)

    def uniform(self, index: int = 0) -> float:
        """The keyed uniforms of this position."""
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

    def scored(self, logits: Floats) -> Row:
        """The same place with other logits: for what changes them before the law is taken."""
        return type(self)(_Scored(self, logits), ROOT, self.tokens, self.phase, self.keys, self.proposal)

    def _test(self, index: int) -> float:
        return self.keys.uniform(len(self.tokens), VERIFY, index)


class _Scored:
    """A Step of one row whose logits were replaced."""

    __slots__ = ("_logits", "_row")

    def __init__(self, row: Row, logits: Floats) -> None:
        self._row, self._logits = row, logits

    def logits(self, node: int) -> Floats:
        return self._logits

    def hidden(self, node: int, layer: int) -> Floats:
        return self._row.hidden(layer)


class Policy(Protocol):
    """A sampling law with explicit state: what a rejected draft saw leaves no trace."""

    def start(self) -> Any:
        """State before the first token of a run."""

    def step(self, state: Any, row: Row) -> tuple[Any, int]:
        """The token at this row, and the state after it."""


@dataclass(frozen=True)
class Greedy:
    """The most probable token; the lowest id wins ties."""

    def start(self) -> None:
        return None

    def step(self, state: None, row: Row) -> tuple[None, int]:
        return None, int(row.logits.argmax())


@dataclass(frozen=True)
class Sampling:
    """Temperature with top-k, top-p (Holtzman et al. 2020) and min-p (Nguyen et al. 2024).

    top_k 0, top_p 1 and min_p 0 are off. `temperature_first` says whether truncation sees the
    logits before or after temperature: transformers truncates after it, llama.cpp before it.
    Order: top-k, top-p, min-p, as in both libraries. At least one token always survives.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    temperature_first: bool = True

    def __post_init__(self) -> None:
        if not 0.0 < self.temperature < float("inf"):
            raise ControllerError(f"temperature is {self.temperature}; it must be above 0 (for 0 use greedy)")
        if self.top_k < 0:
            raise ControllerError(f"top_k is {self.top_k}; it must be 0 (off) or more")
        if not 0.0 < self.top_p <= 1.0:
            raise ControllerError(f"top_p is {self.top_p}; it must be above 0 and at most 1 (off)")
        if not 0.0 <= self.min_p <= 1.0:
            raise ControllerError(f"min_p is {self.min_p}; it must be between 0 (off) and 1")

    def start(self) -> None:
        return None

    def step(self, state: None, row: Row) -> tuple[None, int]:
        ids, weights = self.law(row.logits)
        return None, row.draw(weights, ids)

    def law(self, logits: Floats) -> tuple[Any, Floats]:
        """(token ids, weights) of the survivors; ids None = all of them. Weights need no sum of 1."""
        scale = self.temperature
        shifted = logits.astype(np.float64) if logits.shape[0] < 4096 else logits - logits.max()
        shifted = shifted - shifted.max()
        if self.top_k == 0 and self.top_p >= 1.0 and self.min_p == 0.0:
            return None, np.exp(shifted / scale)
        if self.temperature_first:
            shifted = shifted / scale
        ids = self._survivors(shifted)
        kept = shifted[ids]
        return ids, np.exp(kept if self.temperature_first else kept / scale)

    def _survivors(self, shifted: Floats) -> Any:
        """Ids that survive truncation, in ascending order; `shifted` has its maximum at 0."""
        ids = np.flatnonzero(shifted >= np.log(self.min_p)) if self.min_p > 0.0 and self.temperature_first else None
        if self.top_k or self.top_p < 1.0:
            ids = self._sorted_survivors(shifted)
        if ids is None:
            ids = np.flatnonzero(shifted > -np.inf)
        return ids if self.min_p == 0.0 else ids[shifted[ids] >= np.log(self.min_p)]

    def _sorted_survivors(self, shifted: Floats) -> Any:
        """top-k, then top-p. Only the head of the row is sorted: a full sort of 150,000 logits takes 20 ms."""
        weights = np.exp(shifted) if self.top_p < 1.0 else shifted
        wanted = self.top_p * float(weights.sum(dtype=np.float64)) if not self.top_k else 0.0
        for depth in (3.0, 5.0, 8.0, 12.0, 16.0, 24.0, np.inf):
            ids = np.flatnonzero(shifted > -depth)
            if len(ids) >= self.top_k if self.top_k else weights[ids].sum(dtype=np.float64) >= wanted:
                break
        # Ties stay in order of id, as in a stable sort of the whole row.
        kept = ids[np.argsort(-shifted[ids], kind="stable")][: self.top_k or None]
        if self.top_p < 1.0:
            mass = np.cumsum(weights[kept], dtype=np.float64)
            # Smallest prefix whose mass reaches top_p of what top-k left (of everything, if it is off).
            needed = self.top_p * mass[-1] if self.top_k else wanted
            kept = kept[: int(np.searchsorted(mass, needed, side="left")) + 1]
        return np.sort(kept)


def draw(weights: Floats, uniform: float) -> int:
    """Index drawn from non-negative weights by inverting their cumulative sum at `uniform`."""
    mass = np.cumsum(weights, dtype=np.float64)
    total = mass[-1]
    if not 0.0 < total < np.inf:
        raise ControllerError(f"the sampling law is broken: its total mass is {total} (NaN or infinite logits?)")
    # side="right": an index of zero weight can't be hit, not even by a uniform of exactly 0.
    return min(int(mass.searchsorted(uniform * total, side="right")), len(weights) - 1)
