"""When a vote may stop early: a threshold of the leader's share, calibrated on recorded votes.

The unit is the problem: samples of one prompt depend on each other. A threshold fails a problem where the early vote is
another answer than the full vote. It promises nothing about a single sample or about the answer's being right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from reasonctl.controller import ControllerError
from reasonctl.controller.selection import ShareStop, StopRule, samples_read, vote
from reasonctl.probes.risk import accepted

Votes = Sequence[int | None]
"""The classes of one problem's samples, in the order of the samples."""

LEAST = 2
"""Fewest samples of a vote that stops early."""


R = TypeVar("R", bound=StopRule)


@dataclass(frozen=True)
class EarlyVote(Generic[R]):
    """A rule that stops votes early, and what it did on recorded ones."""

    rule: R
    """When a vote stops."""
    problems: int
    """Votes that it was tried on."""
    failures: int
    """Of these, those with another answer than the full vote's."""
    samples: float
    """Mean number of samples drawn."""
    full: int
    """Samples of the full vote."""

    @property
    def saved(self) -> float:
        """The share of samples that weren't drawn."""
        return 1 - self.samples / self.full


def winner(classes: Votes) -> int | None:
    """The class that a vote chooses; None if no sample has an answer."""
    chosen = vote(classes)
    return None if chosen is None else classes[chosen.index]


def tried(rule: R, votes: Sequence[Votes]) -> EarlyVote[R]:
    """What a rule does on recorded votes.

    Raises:
        ControllerError: there are none, or they differ in their numbers of samples.
    """
    full = _full(votes)
    read = [samples_read(rule, classes) for classes in votes]
    failures = sum(winner(classes[:n]) != winner(classes) for classes, n in zip(votes, read, strict=True))
    return EarlyVote(rule, len(votes), failures, float(np.mean(read)), full)


def calibrated_stop(votes: Sequence[Votes], risk: float, confidence: float = 0.9) -> EarlyVote[ShareStop]:
    """The lowest threshold of the leader's share at which early votes differ in at most `risk` of the problems.

    Thresholds are tested from 1 (which never stops early) downwards, by exact binomial tests in a fixed sequence
    (Learn-then-Test, Angelopoulos et al. 2021). All shares that n samples can have are candidates, so the sequence
    depends on n alone.

    Args:
        votes: of problems that are exchangeable with those to come; one vote for each problem.
        risk: accepted share of problems whose early vote differs from the full one, in (0, 1).
        confidence: probability over the votes that the promise is kept, in (0, 1).

    Returns:
        The rule, and what it did on these votes. Its threshold is 1 where nothing can be promised.

    Raises:
        ControllerError: risk or confidence is impossible, or the votes differ in their numbers of samples.
    """
    for name, value in (("risk", risk), ("confidence", confidence)):
        if not 0 < value < 1:
            raise ControllerError(f"{name} is {value}; it must lie between 0 and 1, e.g. 0.05 and 0.9")
    thresholds = share_thresholds(_full(votes))
    failed = share_failures(votes, thresholds).sum(axis=0)
    count = accepted(failed[1:], np.full(len(failed) - 1, len(votes)), risk, confidence)
    return tried(ShareStop(thresholds[count], LEAST), votes)


def share_thresholds(n: int) -> list[float]:
    """A threshold between all neighbouring shares that up to n samples can have, from 1 downwards."""
    shares = sorted({j / read for read in range(LEAST, n) for j in range(1, read + 1)}, reverse=True)
    return [1.0, *((a + b) / 2 for a, b in zip(shares, [*shares[1:], 0.0], strict=True))]


def share_failures(votes: Sequence[Votes], thresholds: Sequence[float]) -> npt.NDArray[np.bool_]:
    """Shape (problems, thresholds): whether a vote that stops above the threshold differs from the full vote."""
    n = _full(votes)
    leaders = [_leaders(classes) for classes in votes]
    shares = np.array([[votes / read for _, read, votes in one[LEAST - 1 : n - 1]] for one in leaders])
    shares = shares.reshape(len(votes), -1)
    # The last column is the full vote: it stops there if it hasn't before, and never differs.
    differs = np.array([[label != one[-1].label for label, *_ in one[min(LEAST, n) - 1 :]] for one in leaders])
    failures = np.empty((len(votes), len(thresholds)), dtype=np.bool_)
    for column, threshold in enumerate(thresholds):
        above = np.column_stack([shares > threshold, np.ones(len(votes), dtype=bool)])
        failures[:, column] = differs[np.arange(len(votes)), above.argmax(axis=1)]
    return failures


class _Leader(NamedTuple):
    """Who leads after the first samples of a vote."""

    label: int | None
    """The class; None: no sample has an answer."""
    read: int
    """Samples so far."""
    votes: int
    """Votes of the leader."""


def _leaders(classes: Votes) -> list[_Leader]:
    """The leader after each sample, each in constant time: of equal classes, the one that came first."""
    counts: dict[int, int] = {}
    order: dict[int, int] = {}
    best: int | None = None
    found = []
    for read, label in enumerate(classes, 1):
        if label is not None:
            order.setdefault(label, len(order))
            counts[label] = counts.get(label, 0) + 1
            if best is None or (counts[label], -order[label]) > (counts[best], -order[best]):
                best = label
        found.append(_Leader(best, read, 0 if best is None else counts[best]))
    return found


def _full(votes: Sequence[Votes]) -> int:
    sizes = {len(classes) for classes in votes}
    if len(sizes) != 1 or not min(sizes):
        raise ControllerError(
            f"votes of {sorted(sizes) or 'no'} samples can't be compared; give n samples of each problem"
        )
    return sizes.pop()
