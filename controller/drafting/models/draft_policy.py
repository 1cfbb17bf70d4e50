"""The law that a policy would draw from at a row, without drawing: what a draft model's tokens are drawn from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...core.decode import Floats
from ...core.errors import ControllerError
from ...sampling.chain import Chain, Greedy
from ...sampling.composed import Constrained, PerPhase
from ...sampling.distortion import Weighed
from ...sampling.policy import Policy
from ...sampling.row import Row


def softmax(logits: Floats, temperature: float) -> Floats:
    """Shape (vocabulary,); sums to 1."""
    shifted = (logits.astype(np.float64) - float(logits.max())) / temperature
    weights = np.exp(shifted)
    law: Floats = weights / weights.sum()
    return law


class _Law(Exception):
    """Carries the law out of a policy at the moment it would draw."""


class DraftRow(Row):
    """A row of the draft model on which a policy shows its law and draws nothing."""

    __slots__ = ()

    def draw(self, weights: Floats, ids: Any = None) -> int:
        law = np.zeros(len(self.logits))
        law[slice(len(weights)) if ids is None else ids] = weights
        raise _Law(law / law.sum())


@dataclass(frozen=True)
class UniformStep:
    """A step whose rows say nothing: for asking a policy whether it samples at all."""

    vocabulary: int

    def logits(self, node: int) -> Floats:
        return np.zeros(self.vocabulary, np.float32)

    def hidden(self, node: int, layer: int) -> Floats:
        raise ControllerError("this policy reads hidden states, which a draft model doesn't have; use another drafter")


def for_drafts(policy: Policy) -> Policy:
    """The policy without stages that must see the target's rows only. Drafts may follow any law, if it is told."""
    if isinstance(policy, Constrained):
        kept = [stage for stage in policy.constraints if stage.drafts]
        return Constrained(kept, for_drafts(policy.inner))
    if isinstance(policy, Weighed):
        return for_drafts(policy.chain)
    if isinstance(policy, PerPhase):
        return PerPhase(for_drafts(policy.think), for_drafts(policy.answer))
    if isinstance(policy, Chain) and not all(stage.drafts for stage in policy.stages):
        kept = [stage for stage in policy.stages if stage.drafts]
        return Greedy(*kept) if isinstance(policy, Greedy) else Chain(*kept)
    return policy


def law_of(policy: Policy, row: DraftRow) -> Floats | None:
    """The policy's law at a row, from its first state; None for one that takes the largest."""
    try:
        policy.step(policy.start(), row)
    except _Law as law:
        found: Floats = law.args[0]
        return found
    return None
