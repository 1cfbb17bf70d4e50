"""Which sampling policy serves votes of n samples best on a user's tasks: temperatures and annealed schedules.

A policy that is best for one run needn't be for a vote of many: samples that differ more give the vote more to choose
from. All policies are measured on the same problems with the same keys. The unit is the problem.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from reasonctl.controller import EAD, ControllerError
from reasonctl.controller.selection import vote

from ..evaluation.intervals import Interval, mean_interval, share_interval
from ..runs.recipe import Recipe
from ..runs.sampled import Sample, SampledProblem, SampleSet, sample_problem
from ..tasks.problem import Problem

TEMPERATURES = (0.3, 0.6, 0.9, 1.2)
"""Temperatures that are compared."""
STRETCHES = (1.0, 2.0)
"""Annealed schedules that are compared: made for answers so many times as long as the median."""
PILOT = 8
"""Problems whose runs give the median length of an answer."""


@dataclass(frozen=True)
class Measured:
    """One policy at one number of samples."""

    policy: str
    """Its text form."""
    n: int
    """Samples of a vote."""
    accuracy: Interval
    """Share of right votes."""
    any_right: Interval
    """Share of problems with a right answer among n samples (pass@n): what a perfect choice would get."""
    difference: Interval
    """Accuracy less that of the best policy at n, on the same problems; all 0 for the best one."""
    tokens: float
    """Mean tokens of n samples."""

    @property
    def apart(self) -> bool:
        """Whether it can be distinguished from the best policy."""
        return self.difference.high < 0

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        intervals = {name: getattr(self, name)._asdict() for name in ("accuracy", "any_right", "difference")}
        return {"policy": self.policy, "n": self.n, **intervals, "tokens": self.tokens, "apart": self.apart}


def candidates(recipe: Recipe, problems: Sequence[Problem], given: Sequence[str] = ()) -> list[str]:
    """The policies that are compared, as texts: the user's, or temperatures and schedules for this task's answers.

    Args:
        recipe: how runs are made.
        problems: the task's; a run on each of the first few gives the median length of an answer.
        given: the user's own.
    """
    if given:
        return list(dict.fromkeys(given))
    pilot = SampleSet("pilot", 1, "temperature(1)")
    costs = [sample_problem(recipe, i, one.question, [pilot])[0][0].cost for i, one in enumerate(problems[:PILOT])]
    usual = max(1.0, round(median(costs)))
    temperatures = [f"temperature({t:g})" for t in TEMPERATURES]
    return [*temperatures, *(str(EAD(median=stretch * usual)) for stretch in STRETCHES)]


def compare(problems: Sequence[SampledProblem], sizes: Sequence[int]) -> dict[int, list[Measured]]:
    """Every policy at every number of samples, the best first.

    Args:
        problems: a set of samples for each policy, named by its text.
        sizes: numbers of samples; each divides the number that was drawn.

    Raises:
        ControllerError: there are no two problems.
    """
    if len(problems) < 2:
        raise ControllerError(f"{len(problems)} problems give no interval; give 2 or more")
    return {size: _at(problems, size) for size in sizes}


def _at(problems: Sequence[SampledProblem], size: int) -> list[Measured]:
    policies = list(problems[0].sets)
    shares = {policy: [_shares(one.sets[policy], size) for one in problems] for policy in policies}
    votes = {policy: [voted for voted, _, _ in found] for policy, found in shares.items()}
    best = max(policies, key=lambda policy: sum(votes[policy]))
    blocks = len(problems[0].sets[best]) // size
    made = [
        Measured(
            policy,
            size,
            share_interval(votes[policy], blocks),
            share_interval([hit for _, hit, _ in shares[policy]], blocks),
            mean_interval([a - b for a, b in zip(votes[policy], votes[best], strict=True)]),
            sum(cost for _, _, cost in shares[policy]) / len(problems),
        )
        for policy in policies
    ]
    return sorted(made, key=lambda one: (-one.accuracy.mean, one.tokens))


def _shares(samples: Sequence[Sample], size: int) -> tuple[float, float, float]:
    """Over a problem's blocks of so many samples: shares of right votes and of blocks with a right answer; tokens."""
    blocks = [samples[start : start + size] for start in range(0, len(samples), size)]
    voted = 0
    for block in blocks:
        chosen = vote([one.label for one in block])
        voted += chosen is not None and block[chosen.index].right
    hit = sum(any(one.right for one in block) for block in blocks)
    return voted / len(blocks), hit / len(blocks), sum(one.cost for one in samples) / len(blocks)
