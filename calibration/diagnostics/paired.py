"""Two runs of the same problems compared: accuracy, influence rate, flips, and the exact McNemar test.

The influence rate is that of "When Silence Matters" (arXiv 2510.00626): the share of problems whose grade changes. Two
conditions can have the same accuracy and a large influence rate, where as many problems are gained as are lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from scipy.stats import binomtest


class Share(NamedTuple):
    """A share of problems, with Wilson's 95 % interval."""

    rate: float
    """The share."""
    low: float
    """The interval's lower end."""
    high: float
    """Its upper end."""


@dataclass(frozen=True)
class Graded:
    """One answer, graded."""

    answer: str
    """What it states; "" if nothing."""
    right: bool
    """Whether the grader accepts it."""


@dataclass(frozen=True)
class Comparison:
    """A condition against the clean runs of the same problems."""

    n: int
    """Problems."""
    accuracy: Share
    """Share that is right under the condition."""
    clean_accuracy: Share
    """Share that is right in the clean runs."""
    gained: int
    """Problems that are wrong in the clean run and right under the condition."""
    lost: int
    """Problems that are right in the clean run and wrong under the condition."""
    influence: Share
    """The influence rate: (gained + lost) / n."""
    flips: Share
    """Share whose stated answer changes; at least the influence rate, as a wrong answer can become another one."""
    p: float
    """The exact two-sided McNemar test of equal accuracy. 1 where no grade changes."""

    def to_json(self) -> dict[str, Any]:
        """As plain values; a share is its rate and its interval."""
        values = asdict(self)
        shares = {name: value._asdict() for name, value in vars(self).items() if isinstance(value, Share)}
        return values | shares


def share(count: int, n: int) -> Share:
    """A count of n problems.

    >>> [round(end, 3) for end in share(5, 20)]
    [0.25, 0.112, 0.469]
    """
    found = binomtest(count, n).proportion_ci(0.95, method="wilson")
    return Share(count / n, float(found.low), float(found.high))


def discordant(one: Sequence[bool], other: Sequence[bool]) -> tuple[int, int]:
    """On how many problems only the one holds, and only the other.

    >>> discordant([True, True, False], [True, False, True])
    (1, 1)
    """
    pairs = list(zip(one, other, strict=True))
    return sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)


def mcnemar(gained: int, lost: int) -> float:
    """The exact two-sided McNemar test (McNemar 1947): a fair coin decides every grade that changes.

    >>> round(mcnemar(1, 7), 6), mcnemar(0, 0)
    (0.070312, 1.0)
    """
    changed = gained + lost
    return float(binomtest(gained, changed).pvalue) if changed else 1.0


def exceeds(changed: Sequence[bool], floor: Sequence[bool]) -> float:
    """One-sided exact McNemar test: more problems change than do by chance alone. 1 where both change the same ones.

    Args:
        changed: Whether each problem's grade changes.
        floor: Whether it changes by chance alone.

    >>> exceeds([True] * 5 + [False] * 5, [False] * 10), exceeds([True, False], [False, True])
    (0.03125, 0.75)
    """
    only, other = discordant(changed, floor)
    return float(binomtest(only, only + other, alternative="greater").pvalue) if only + other else 1.0


def compare(clean: Sequence[Graded], other: Sequence[Graded], same: Sequence[bool]) -> Comparison:
    """Compare a condition with the clean runs.

    Args:
        clean: The clean answer of each problem; at least one.
        other: The condition's answers to the same problems.
        same: Whether the two state the same answer.
    """
    n = len(clean)
    gained, lost = discordant([b.right for b in other], [a.right for a in clean])
    flips = sum(not equal or a.right != b.right for a, b, equal in zip(clean, other, same, strict=True))
    return Comparison(
        n=n,
        accuracy=share(sum(one.right for one in other), n),
        clean_accuracy=share(sum(one.right for one in clean), n),
        gained=gained,
        lost=lost,
        influence=share(gained + lost, n),
        flips=share(flips, n),
        p=mcnemar(gained, lost),
    )


def holm(p: Sequence[float]) -> list[float]:
    """Adjusted p-values of several tests: Holm's step-down method (1979), which bounds the chance of any false alarm.

    >>> [round(value, 3) for value in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    adjusted, highest = [0.0] * len(p), 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        highest = max(highest, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = highest
    return adjusted
