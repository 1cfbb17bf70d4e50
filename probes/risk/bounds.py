"""Exact statistics of counts and scores: binomial tests and bounds, fixed-sequence testing, the conformal quantile.

This file knows no table and no mode. It imports SciPy's special functions where it calls them: their import takes
longer than that of all the other modules of this package.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from reasonctl.controller import ControllerError

from .stopping import Stopping, fewest
from .table import Floats64, Ints


def p_value(failures: int, n: int, risk: float) -> float:
    """P(Binomial(n, risk) <= failures): exact p-value of "the risk is above `risk`"; 1 where n = 0."""
    from scipy.special import bdtr

    return float(bdtr(failures, n, risk)) if n else 1.0


def accepted(failed: Ints, n: Ints, risk: float, confidence: float, stopping: Stopping | None = None) -> int:
    """How many candidates hold the risk all at once, by fixed-sequence testing with exact binomial tests.

    The tests go down the candidates in their order and stop at the first one whose p-value is above 1 - confidence
    (Bauer 1991; the multiple testing of Learn-then-Test, Angelopoulos et al. 2021).

    Args:
        failed: Failing runs of each candidate, strictest candidate first. Shape (candidates,).
        n: Runs that count for each candidate. Shape (candidates,).
        risk: The failing share that every accepted candidate stays below.
        confidence: One minus the family-wise error rate: the largest probability that an accepted candidate's true
            failing share is above `risk`.
        stopping: When collecting could have stopped; all runs up to its last analysis count for each candidate. The
            error rate is then that of all analyses together. A wrong acceptance at any of them accepts the strictest
            candidate whose share is above `risk`, since every sequence passes it first; so the bound on that one
            candidate bounds them all. None: the number of runs was fixed.

    Returns:
        The number of accepted candidates; they are the first ones.
    """
    from scipy.special import bdtr

    if stopping is None:
        passed = np.where(n > 0, bdtr(failed, np.maximum(n, 1), risk), 1.0) <= 1 - confidence
    else:
        passed = failed <= stopping.most_failures(risk, confidence)
    refused = np.flatnonzero(~passed)
    return int(refused[0]) if len(refused) else len(passed)


def upper_bound(count: int, n: int, confidence: float = 0.9) -> float:
    """One-sided Clopper-Pearson upper bound of a rate, from `count` of `n`.

    Raises:
        ControllerError: `count` isn't between 0 and `n`.

    >>> round(upper_bound(0, 45), 4), upper_bound(3, 3), upper_bound(0, 0)
    (0.0499, 1.0, 1.0)
    """
    if not 0 <= count <= n:
        raise ControllerError(f"count is {count} of {n}; it must be between 0 and {n}")
    from scipy.special import betaincinv

    return 1.0 if count == n else float(betaincinv(count + 1, n - count, confidence))


def refutes(count: int, n: int, risk: float, level: float = 0.01) -> bool:
    """Whether `count` failures in `n` runs contradict "the risk is at most `risk`" (one-sided exact binomial test).

    Args:
        count: Failures seen.
        n: Runs.
        risk: The risk that was promised.
        level: Largest probability of a contradiction where the promise holds.

    Raises:
        ControllerError: `count` isn't between 0 and `n`.

    >>> refutes(6, 100, 0.05), refutes(12, 100, 0.05)
    (False, True)
    """
    if not 0 <= count <= n:
        raise ControllerError(f"count is {count} of {n}; it must be between 0 and {n}")
    from scipy.special import bdtrc

    return count > 0 and float(bdtrc(count - 1, n, risk)) <= level


def shortfall(
    failed: int,
    n: int,
    risk: float,
    confidence: float,
    stopping: Stopping | None,
    *,
    what: str,
    promise: str,
    share: float = 1.0,
) -> tuple[int | None, str]:
    """Say how many more runs a promise needs, where not even the strictest candidate holds it.

    Args:
        failed: Failing runs at the strictest candidate.
        n: Runs that count there.
        risk: The risk that was asked for.
        confidence: The confidence that was asked for.
        stopping: When collecting could have stopped. None: the number of runs was fixed.
        what: What is counted, in a word for the message.
        promise: The promise in words.
        share: The share of all runs that counts.

    Returns:
        The number of missing runs (None: no number would do), and the reason in one sentence.
    """
    share = max(share, 1e-9)
    least = fewest(risk, confidence) if stopping is None else stopping.fewest(risk, confidence)
    if n < least:
        more = math.ceil((least - n) / share)
        why = f"{n} calibration {what} can't promise {promise} (it takes {least} without a failure)"
        return more, f"{why}: {more} more runs are needed"
    total = _sufficient(failed, n, risk, confidence, stopping)
    missing = None if total is None else math.ceil((total - n) / share)
    hope = "no number of runs would do" if total is None else f"at this rate about {missing} more runs"
    why = f"{failed} failures in {n} calibration {what} at the strictest threshold are too many for {promise}"
    return missing, f"{why}; a better probe or a higher risk is needed ({hope})"


def _sufficient(failed: int, n: int, risk: float, confidence: float, stopping: Stopping | None) -> int | None:
    """Runs that hold the promise at the failing rate seen; None: no number within reach would do."""
    if stopping is not None:
        return stopping.enough(failed, n, risk, confidence)
    sizes = (math.ceil(n * 1.05**i) for i in range(143))  # up to 1024 n
    return next((m for m in sizes if p_value(math.ceil(failed * m / n), m, risk) <= 1 - confidence), None)


def conformal_quantile(scores: Floats64, risk: float) -> float:
    """The conformal quantile: the ceil((n + 1)(1 - risk))-th smallest of n scores.

    Args:
        scores: Shape (n,).
        risk: The share of new scores that may be above the quantile, on average.

    Returns:
        The quantile. It is +inf, and not the largest score, where that index is above n.
    """
    n = len(scores)
    index = n + 1 - math.floor((n + 1) * Fraction(str(float(risk))))  # the decimal that was typed, not its float
    return math.inf if index > n else float(np.partition(scores, index - 1)[index - 1])
