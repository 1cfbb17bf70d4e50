"""The distribution of a draft model's tokens: the run's own policy, read on the draft model's logits."""

from __future__ import annotations

from collections.abc import Sequence

from ...core.decode import ROOT, Floats, Step
from ...thinking.markers import Phase
from ..drafter import Target
from .draft_policy import DraftRow, UniformStep, for_drafts, law_of, softmax

DRAFT_TEMPERATURE = 0.6
"""Temperature of the drafts for a greedy target: a one-hot distribution would say nothing about what comes second."""


class DraftDistribution:
    """What the run's policy would draw from, asked at rows of the draft model."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._policy = for_drafts(target.policy)
        self._samples: dict[Phase, bool] = {}

    def samples(self, tokens: Sequence[int]) -> bool:
        """Whether the policy draws in the run's present phase; for one that doesn't the largest is drafted first."""
        phase = self._target.phase()
        if phase not in self._samples:
            row = self._row(UniformStep(self._target.session.can.vocabulary), ROOT, tokens, phase)
            self._samples[phase] = law_of(self._policy, row) is not None
        return self._samples[phase]

    def probs(self, step: Step, node: int, tokens: Sequence[int]) -> Floats:
        """Shape (vocabulary,), sums to 1: the distribution of the token after `tokens`, which end at `node`."""
        row = self._row(step, node, tokens, self._target.phase())
        probs = law_of(self._policy, row)
        return softmax(row.logits, DRAFT_TEMPERATURE) if probs is None else probs

    def _row(self, step: Step, node: int, tokens: Sequence[int], phase: Phase) -> DraftRow:
        return DraftRow(step, node, tokens, phase, self._target.keys, self._target.frame)
