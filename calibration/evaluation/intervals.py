"""95 % intervals of means over problems. The unit is the problem: samples of one prompt depend on each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

Z = 1.959964
"""The normal distribution's 97.5 % quantile."""


class Interval(NamedTuple):
    """A mean and its 95 % interval."""

    mean: float
    """The estimate."""
    low: float
    """The interval's lower end."""
    high: float
    """Its upper end."""


def mean_interval(values: Sequence[float]) -> Interval:
    """The mean of one number for each problem, and Student's interval; infinite ends for a single problem.

    >>> [round(float(end), 3) for end in mean_interval([1.0, 2.0, 3.0])]
    [2.0, -0.484, 4.484]
    """
    given = np.asarray(values, dtype=np.float64)
    mean, degrees = float(given.mean()), len(given) - 1
    half = float(stdtrit(degrees, 0.975) * given.std(ddof=1)) / math.sqrt(len(given)) if degrees else math.inf
    return Interval(mean, mean - half, mean + half)


def share_interval(shares: Sequence[float], most: int = 1) -> Interval:
    """The mean of a share of each problem, and Wilson's interval; it never leaves [0, 1] and is never empty.

    Where a problem's share is itself the mean of several votes, its variance over problems is smaller than that of a
    single vote. The interval then has as many effective problems as that variance says (Korn & Graubard 1998).

    Args:
        shares: one for each problem, in [0, 1].
        most: how many votes each is the mean of; no more count.

    >>> [round(end, 3) for end in share_interval([1.0] * 20)]
    [1.0, 0.839, 1.0]
    >>> [round(end, 3) for end in share_interval([0.0, 1.0] * 10)]
    [0.5, 0.299, 0.701]
    >>> [round(end, 3) for end in share_interval([0.5] * 20, 2)]
    [0.5, 0.352, 0.648]
    """
    given = np.asarray(shares, dtype=np.float64)
    count, mean = len(given), float(given.mean())
    variance = float(given.var(ddof=1)) if count > 1 else 0.0
    single = mean * (1 - mean)
    size = count * min(float(most), max(1.0, single / variance if variance > 0 else float(most)))
    if single <= 0:
        size = count
    centre, spread = mean + Z**2 / (2 * size), Z * math.sqrt(single / size + Z**2 / (4 * size**2))
    scale = 1 + Z**2 / size
    low, high = max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)
    return Interval(mean, min(mean, low), max(mean, high))  # rounding puts an end past a mean of 0 or 1
