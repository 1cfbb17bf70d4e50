"""Contrast accuracy: how often the response that is expected to be better is, as a grader says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..tasks.graders import Grader
from ..tasks.problem import Problem
from .contrasts import Pair, Strategy
from .paired import Share, mcnemar, share

Outcome = Literal["agrees", "reversed", "tie", "equal", "empty"]
Keep = Literal["agreeing", "untied", "different"]

KEPT: dict[Keep, frozenset[Outcome]] = {
    "agreeing": frozenset({"agrees"}),
    "untied": frozenset({"agrees", "reversed"}),
    "different": frozenset({"agrees", "reversed", "tie"}),
}
"""Which pairs are written. Equal and empty ones never are."""


def outcome(pair: Pair, problem: Problem, grader: Grader) -> Outcome:
    """What a grader makes of a pair: one response is right and the other wrong, or it says nothing.

    Args:
        pair: The responses.
        problem: The question and its gold answer.
        grader: What grades them.
    """
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
    """Pairs in which a side has no response."""
    accuracy: Share | None
    """Contrast accuracy: agrees / (agrees + reversed). None: there is no such pair."""
    p: float
    """The exact two-sided test that the better side is right as often as the worse one."""

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return vars(self) | {"accuracy": None if self.accuracy is None else self.accuracy._asdict()}


def strategy_results(strategies: Sequence[Strategy], outcomes: Sequence[Sequence[Outcome]]) -> list[StrategyResult]:
    """The contrast accuracy of each strategy.

    Args:
        strategies: The strategies.
        outcomes: Of each question, one of each strategy.
    """
    found = []
    for i, name in enumerate(strategies):
        counts = Counter(one[i] for one in outcomes)
        agrees, other = counts["agrees"], counts["reversed"]
        accuracy = share(agrees, agrees + other) if agrees + other else None
        rest = (counts["tie"], counts["equal"], counts["empty"])
        found.append(StrategyResult(name, agrees, other, *rest, accuracy, mcnemar(agrees, other)))
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
