"""Contrast accuracy: how often the response that is expected to be better is, as a grader says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..tasks.graders import Grader
from ..tasks.problem import Problem
from .contrasts import Pair, Strategy
from .paired import Share, holm, mcnemar, share

Outcome = Literal["agrees", "reversed", "tie", "equal", "empty", "cut"]
Keep = Literal["agreeing", "untied", "different"]

KEPT: dict[Keep, frozenset[Outcome]] = {
    "agreeing": frozenset({"agrees"}),
    "untied": frozenset({"agrees", "reversed"}),
    "different": frozenset({"agrees", "reversed", "tie"}),
}
"""Which pairs are written. Equal, empty and cut ones never are."""


def outcome(pair: Pair, problem: Problem, grader: Grader) -> Outcome:
    """What a grader makes of a pair: one response is right and the other wrong, or it says nothing.

    A pair with a cut side isn't graded: a response that lacks its end is wrong for its length, not for what it says.

    Args:
        pair: The responses.
        problem: The question and its gold answer.
        grader: What grades them.
    """
    if pair.cut:
        return "cut"
    if not pair.better or not pair.worse:
        return "empty"
    if pair.better == pair.worse:
        return "equal"
    better, worse = grader.right(pair.better, problem), grader.right(pair.worse, problem)
    if better == worse:
        return "tie"
    return "agrees" if better else "reversed"


@dataclass(frozen=True)
class StrategyResult:
    """What came of a strategy."""

    strategy: Strategy
    """The strategy."""
    agrees: int
    """Pairs whose better side is right and whose worse side is wrong."""
    reversed: int
    """Pairs the other way round."""
    ties: int
    """Pairs that differ, both right or both wrong."""
    equal: int
    """Pairs of equal texts."""
    empty: int
    """Pairs in which both sides ended and one has no response."""
    cut: int
    """Pairs in which a side is cut: its tokens ran out before it ended."""
    accuracy: Share | None
    """Contrast accuracy: agrees / (agrees + reversed), over the pairs whose sides both ended and of which exactly one
    is right. None: there is no such pair."""
    p: float
    """The exact two-sided test that the better side is right as often as the worse one, over the same pairs."""
    adjusted: float
    """p after Holm's method over all strategies of the job."""

    @property
    def decided(self) -> int:
        """Pairs that contrast accuracy is computed on: both sides ended, and exactly one is right."""
        return self.agrees + self.reversed

    @property
    def pairs(self) -> int:
        """All pairs."""
        return self.decided + self.ties + self.equal + self.empty + self.cut

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        accuracy = None if self.accuracy is None else self.accuracy._asdict()
        return vars(self) | {"accuracy": accuracy, "decided": self.decided, "pairs": self.pairs}


def strategy_results(strategies: Sequence[Strategy], outcomes: Sequence[Sequence[Outcome]]) -> list[StrategyResult]:
    """The contrast accuracy of each strategy.

    Args:
        strategies: The strategies.
        outcomes: Of each question, one of each strategy.
    """
    found = []
    each = [Counter(one[i] for one in outcomes) for i in range(len(strategies))]
    p = [mcnemar(counts["agrees"], counts["reversed"]) for counts in each]
    for name, counts, own, adjusted in zip(strategies, each, p, holm(p), strict=True):
        agrees, other = counts["agrees"], counts["reversed"]
        accuracy = share(agrees, agrees + other) if agrees + other else None
        rest = (counts["tie"], counts["equal"], counts["empty"], counts["cut"])
        found.append(StrategyResult(name, agrees, other, *rest, accuracy, own, adjusted))
    return found


def training_line(problem: Problem, pair: Pair, result: Outcome) -> dict[str, Any]:
    """A pair as trl's DPOTrainer reads it: a conversational prompt, and two messages of the assistant."""

    def message(role: str, text: str) -> list[dict[str, str]]:
        return [{"role": role, "content": text}]

    return {
        "prompt": message("user", problem.question),
        "chosen": message("assistant", pair.better),
        "rejected": message("assistant", pair.worse),
        "strategy": pair.strategy,
        "graded": result,
    }
