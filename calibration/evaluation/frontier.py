"""Accuracy against all tokens: one run, an exit, votes of many samples, and everything that makes them cheaper.

Every way reads the same recorded samples. Its tokens are all that it draws: thinking, answers, forced text and trials
of every sample. Rejected drafts are counted apart. A vote that stops early is counted as if its samples came one after
the other; samples that are decoded next to each other are partly drawn when the vote ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from reasonctl.controller import ControllerError
from reasonctl.controller.selection import (
    BetaStop,
    LosslessStop,
    StopRule,
    best_logprob,
    mbr,
    samples_read,
    sim_lcs,
    utility_matrix,
    vote,
)

from ..runs.sampled import Sample, SampledProblem
from .early_votes import calibrated_stop
from .intervals import Interval, mean_interval, share_interval

INDEPENDENT, ARITHMETIC, EXIT, DRAFTED = "independent", "arithmetic", "exit", "drafted"
"""The sets of samples that ways read."""
FEWEST = 4
"""Fewest samples of a vote that is shown; one of two is the first sample's answer."""


class Chosen(NamedTuple):
    """What a way makes of some samples."""

    sample: int | None
    """Its number; None: none has an answer."""
    read: int
    """How many of them it drew."""


Way = Callable[[Sequence[Sample]], Chosen]


@dataclass(frozen=True)
class Point:
    """One way on all problems."""

    way: str
    """What is done with the samples: "one run", "vote", "vote, lossless stop" ..."""
    samples: int
    """Most samples that it draws."""
    accuracy: Interval
    """Share of right answers."""
    gain: Interval
    """Accuracy less that of one run, on the same problems."""
    tokens: Interval
    """Tokens of all samples for one problem."""
    drawn: float
    """Mean number of samples drawn."""
    rejected: float
    """Mean number of rejected drafted tokens, which `tokens` leaves out."""

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        intervals = {name: getattr(self, name)._asdict() for name in ("accuracy", "gain", "tokens")}
        return asdict(self) | intervals


class _Means(NamedTuple):
    """A way's means over the blocks of each problem. Shape of each: (problems,)."""

    right: list[float]
    tokens: list[float]
    drawn: list[float]
    rejected: list[float]


def sizes_of(n: int) -> list[int]:
    """The sizes of votes that n samples show: powers of two from 4 to n.

    Raises:
        ControllerError: n is no power of two, or below 4.

    >>> sizes_of(16)
    [4, 8, 16]
    """
    if n < FEWEST or n & (n - 1):
        raise ControllerError(f"{n} samples can't be divided into smaller votes; give a power of two, {FEWEST} or more")
    return [FEWEST << i for i in range(n.bit_length() - FEWEST.bit_length() + 1)]


def vote_of(samples: Sequence[Sample]) -> Chosen:
    """The vote of all samples."""
    chosen = vote([one.label for one in samples])
    return Chosen(None if chosen is None else chosen.index, len(samples))


def stopped_by(rule: StopRule) -> Way:
    """A vote that a rule stops."""

    def way(samples: Sequence[Sample]) -> Chosen:
        return vote_of(samples[: samples_read(rule, [one.label for one in samples])])

    return way


def crowd(samples: Sequence[Sample]) -> Chosen:
    """Minimum Bayes risk under Sim-LCS of the texts."""
    return Chosen(mbr(utility_matrix([one.text for one in samples], sim_lcs)).index, len(samples))


def most_probable(samples: Sequence[Sample]) -> Chosen:
    """The sample with the highest mean log-probability."""
    return Chosen(best_logprob([one.logprob or 0.0 for one in samples]).index, len(samples))


def frontier(problems: Sequence[SampledProblem], risk: float, confidence: float = 0.9) -> list[Point]:
    """All ways on recorded samples.

    Args:
        problems: with the sets `independent` and `arithmetic` of n samples, and maybe `exit` of n and `drafted` of 1.
        risk: of the calibrated vote: accepted share of problems where it differs from the full vote.
        confidence: of the calibrated vote.

    Raises:
        ControllerError: n is no power of two, or there are no two problems.
    """
    if len(problems) < 2:
        raise ControllerError(f"{len(problems)} problems give no interval; give 2 or more")
    first = problems[0].sets
    sizes = sizes_of(len(first[INDEPENDENT]))
    n, one = sizes[-1], _means(problems, INDEPENDENT, 1, [vote_of])

    def point(way: str, name: str, size: int, *ways: Way) -> Point:
        return _point(way, size, len(first[name]) // size, _means(problems, name, size, ways), one)

    points = [point("one run", INDEPENDENT, 1, vote_of)]
    if DRAFTED in first:
        points.append(point("one run, drafted", DRAFTED, 1, vote_of))
    for name, way in ((INDEPENDENT, "vote"), (EXIT, "vote, exit inside")):
        if name not in first:
            continue
        if name == EXIT:
            points.append(point("exit", EXIT, 1, vote_of))
        points += [point(way, name, size, vote_of) for size in sizes]
        points.append(point(f"{way}, lossless stop", name, n, stopped_by(LosslessStop())))
        points.append(point(f"{way}, beta stop", name, n, stopped_by(BetaStop())))
        points.append(point(f"{way}, calibrated stop", name, n, *_crossed(problems, name, risk, confidence)))
    points += [point("vote, arithmetic codes", ARITHMETIC, size, vote_of) for size in sizes]
    points += [point("minimum Bayes risk", INDEPENDENT, size, crowd) for size in sizes]
    points += [point("most probable", INDEPENDENT, size, most_probable) for size in sizes]
    return points


def _crossed(problems: Sequence[SampledProblem], name: str, risk: float, confidence: float) -> list[Way]:
    """Two ways: each half of the problems stops by the threshold that the other half was calibrated for."""
    votes = [one.votes(name) for one in problems]
    return [stopped_by(calibrated_stop(votes[1 - half :: 2], risk, confidence).rule) for half in (0, 1)]


def _means(problems: Sequence[SampledProblem], name: str, size: int, ways: Sequence[Way]) -> _Means:
    """A way on all blocks of so many samples; problem i is the i-th way's, in turn."""
    made = _Means([], [], [], [])
    for i, problem in enumerate(problems):
        samples, outcomes = problem.sets[name], []
        for start in range(0, len(samples), size):
            block = samples[start : start + size]
            sample, read = ways[i % len(ways)](block)
            right = sample is not None and block[sample].right
            drawn = block[:read]
            cost, rejected = sum(one.cost for one in drawn), sum(one.rejected for one in drawn)
            outcomes.append((float(right), cost, read, rejected))
        for values, mean in zip(made, np.mean(outcomes, axis=0), strict=True):
            values.append(float(mean))
    return made


def _point(way: str, size: int, blocks: int, means: _Means, one: _Means) -> Point:
    gain = mean_interval([a - b for a, b in zip(means.right, one.right, strict=True)])
    return Point(
        way,
        size,
        share_interval(means.right, blocks),
        gain,
        mean_interval(means.tokens),
        float(np.mean(means.drawn)),
        float(np.mean(means.rejected)),
    )
