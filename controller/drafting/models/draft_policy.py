"""What a draft model's tokens are drawn from: the run's own policy, asked with the draft model's logits."""

from __future__ import annotations

from dataclasses import dataclass

from ...core.decode import Floats, Step
from ...core.errors import ControllerError
from ...core.probability import softmax
from ...sampling.policy import Policy
from ...sampling.row import Row

GREEDY_TEMPERATURE = 0.6
"""Of drafts for a policy that takes the largest: a one-hot distribution would say nothing of what comes second."""


@dataclass(frozen=True)
class DraftStep:
    """A step of the draft model, as a policy may see it: its hidden states are not the target's."""

    step: Step

    def logits(self, node: int) -> Floats:
        return self.step.logits(node)

    def hidden(self, node: int, layer: int) -> Floats:
        raise ControllerError("this policy reads hidden states, which a draft model doesn't have; use another drafter")


def draft_probs(policy: Policy, row: Row) -> Floats:
    """The probabilities that a draft token at this row is drawn from, or ranked by where nothing is drawn.

    Args:
        policy: the run's, made by `Policy.for_drafts`; it is asked in its first state.
        row: of a DraftStep.

    Returns:
        Shape (vocabulary,); sums to 1.
    """
    if not policy.samples(row.phase):
        return softmax(row.logits, GREEDY_TEMPERATURE)
    return policy.distribution(policy.start(), row).dense(len(row.logits))
