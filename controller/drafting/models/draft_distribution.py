"""The distribution of a draft model's tokens: the run's own policy, asked with the draft model's logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...core.decode import Floats, Step
from ...core.errors import ControllerError
from ...core.probability import softmax
from ...sampling.draw import Row
from ..drafter import Target

DRAFT_TEMPERATURE = 0.6
"""Temperature of the drafts for a greedy target: a one-hot distribution would say nothing about what comes second."""


@dataclass(frozen=True)
class DraftStep:
    """A step of the draft model as a policy may see it: its hidden states are not the target's."""

    step: Step
    """The draft model's own."""

    def logits(self, node: int) -> Floats:
        return self.step.logits(node)

    def hidden(self, node: int, layer: int) -> Floats:
        raise ControllerError("this policy reads hidden states, which a draft model doesn't have; use another drafter")


class DraftDistribution:
    """What the run's policy would draw from, asked at rows of the draft model."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._policy = target.policy.for_drafts()

    def samples(self) -> bool:
        """Whether the policy draws in the run's present phase; for one that doesn't the largest is drafted first."""
        return self._policy.samples(self._target.phase())

    def probs(self, step: Step, node: int, tokens: Sequence[int]) -> Floats:
        """Shape (vocabulary,), sums to 1: the distribution of the token after `tokens`, which end at `node`."""
        target = self._target
        row = Row(DraftStep(step), node, tokens, target.phase(), target.keys, target.context)
        if not self._policy.samples(row.phase):
            return softmax(row.logits, DRAFT_TEMPERATURE)
        return self._policy.distribution(self._policy.start(), row).dense(len(row.logits))
