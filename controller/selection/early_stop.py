"""When enough samples have been drawn: rules that read the votes so far, in the order of the samples' numbers.

A rule reads samples by their index, never in the order in which they end: short answers end first, and a rule that
took them as they come would hear the short ones only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ..core.errors import ControllerError
from .choices import vote


class StopRule(ABC):
    """Says after each sample whether the vote so far is taken as the full vote."""

    @abstractmethod
    def stops(self, classes: Sequence[int | None], n: int) -> bool:
        """Whether no more samples are drawn.

        Args:
            classes: the classes of the first samples, see `answer_classes`.
            n: samples of the full vote.
        """

    def differences(self, n: int, **used: object) -> list[str]:
        """What of a call isn't as the rule was made for, in words; a rule that was calibrated on nothing has none.

        Args:
            n: samples of the full vote.
            used: the policy's text, the codes, the most new tokens.

        Raises:
            ControllerError: the rule can't stop a vote of n samples.
        """
        return []


@dataclass(frozen=True)
class LosslessStop(StopRule):
    """Stops once the leader can't be overtaken: the full vote would say the same, whatever the others answer."""

    def stops(self, classes: Sequence[int | None], n: int) -> bool:
        left = n - len(classes)
        chosen = vote(classes)
        if chosen is None:
            return left <= 0
        counts, leader = _votes(classes), classes[chosen.index]
        # The leader came first, or leads by a vote: a class that is not there yet loses every tie.
        needed = [counts[leader] >= left]
        for label, count in counts.items():
            if label != leader:
                first = classes.index(leader) < classes.index(label)
                needed.append(counts[leader] >= count + left if first else counts[leader] > count + left)
        return all(needed)


@dataclass(frozen=True)
class BetaStop(StopRule):
    """Stops once the leader would win a vote of two with this probability (Aggarwal et al. 2023, section 3.3).

    With a votes for the leader and b for the next class, and a uniform prior, the leader's share of the two is
    Beta(a + 1, b + 1); it is above one half with probability 1 - I(1/2; a + 1, b + 1). No promise follows from it.
    """

    confidence: float = 0.95
    """Above 0.5 and below 1."""

    def __post_init__(self) -> None:
        if not 0.5 < self.confidence < 1:
            raise ControllerError(f"confidence is {self.confidence}; it must be above 0.5 and below 1, e.g. 0.95")

    def stops(self, classes: Sequence[int | None], n: int) -> bool:
        from scipy.special import betainc

        first, second, *_ = sorted([*_votes(classes).values(), 0, 0], reverse=True)
        return len(classes) >= n or (first > 0 and 1 - betainc(first + 1, second + 1, 0.5) >= self.confidence)


@dataclass(frozen=True)
class ShareStop(StopRule):
    """Stops once the leader's share of the samples is above a threshold, or once it can't be overtaken.

    The share is of all samples drawn so far, those without an answer included. Calibrate the threshold on recorded
    samples. The second condition changes no vote, so failures are those of the threshold alone.
    """

    threshold: float
    """Share above which it stops; 1 or more: only once the leader can't be overtaken."""
    least: int = 2
    """Fewest samples of a vote that the share stops."""

    def __post_init__(self) -> None:
        if self.least < 1:
            raise ControllerError(f"least is {self.least}; at least 1 sample is drawn")

    def stops(self, classes: Sequence[int | None], n: int) -> bool:
        by_share = len(classes) >= self.least and share(classes) > max(0.0, self.threshold)
        return by_share or LosslessStop().stops(classes, n)


def share(classes: Sequence[int | None]) -> float:
    """The leader's votes over all samples, those without an answer included; 0 where none has an answer.

    >>> share([0, 0, None, 1])
    0.5
    """
    return max(_votes(classes).values(), default=0) / max(1, len(classes))


def _votes(classes: Sequence[int | None]) -> Counter[int | None]:
    """The votes of each class; samples without an answer have none."""
    return Counter(label for label in classes if label is not None)


def samples_read(rule: StopRule, classes: Sequence[int | None]) -> int:
    """How many of the samples a rule draws, where all of them are `classes`; at least 1.

    >>> samples_read(LosslessStop(), [0, 0, 0, 1, 1]), samples_read(LosslessStop(), [0, 1, 0, 1, 1])
    (3, 5)
    """
    n = len(classes)
    return next((read for read in range(1, n) if rule.stops(classes[:read], n)), n)
