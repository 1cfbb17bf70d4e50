"""Fractional Gaussian noise of a known Hurst exponent, and what the estimators make of it at given lengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .fractal import exponents

KNOWN = (0.5, 0.7, 0.9)
"""Hurst exponents of the noise that the estimators are tried on."""
REPEATS = 40
"""Times that each is drawn."""


def fractional_noise(length: int, hurst: float, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Fractional Gaussian noise of variance 1, exact in distribution, by circulant embedding (Davies & Harte 1987).

    Args:
        length: How many values; at least 2.
        hurst: Above 0 and below 1; 0.5 is white noise.
        rng: Where the normal numbers come from.

    Returns:
        Shape (length,). The covariance at lag k is (|k+1|^2H - 2 |k|^2H + |k-1|^2H) / 2.
    """
    k = np.arange(length, dtype=np.float64)
    power = 2 * hurst
    covariance = ((k + 1) ** power - 2 * k**power + np.abs(k - 1) ** power) / 2
    circle = np.concatenate([covariance, [0.0], covariance[:0:-1]])
    # The value half-way round is free; this one continues the covariance, which keeps all eigenvalues above 0.
    circle[length] = ((length + 1) ** power - 2 * length**power + (length - 1) ** power) / 2
    eigenvalues = np.maximum(np.fft.fft(circle).real, 0.0)
    size = len(circle)
    noise = rng.standard_normal(size) + 1j * rng.standard_normal(size)
    found: npt.NDArray[np.float64] = np.fft.fft(np.sqrt(eigenvalues / size) * noise).real[:length]
    return found


@dataclass(frozen=True)
class Recovered:
    """What the estimators say of noise whose Hurst exponent is known."""

    hurst: float
    """The exponent that it has."""
    rescaled_range: tuple[float, float]
    """Mean and standard deviation of the estimates by rescaled range."""
    dfa: tuple[float, float]
    """The same by DFA."""


def recovery(lengths: Sequence[int], *, seed: int = 0, repeats: int = REPEATS) -> list[Recovered]:
    """Estimates on documents of these lengths that are noise of each of KNOWN.

    Args:
        lengths: Tokens of each document, as `exponents` takes them.
        seed: Of the noise.
        repeats: Times that all documents are drawn.
    """
    found = []
    for hurst in KNOWN:
        rng = np.random.default_rng([seed, round(100 * hurst)])
        drawn = [exponents([fractional_noise(n, hurst, rng) for n in lengths], resamples=1) for _ in range(repeats)]
        ranges, dfa = ([one.rescaled_range.value for one in drawn], [one.dfa.value for one in drawn])
        pairs = [(float(np.mean(one)), float(np.std(one, ddof=1))) for one in (ranges, dfa)]
        found.append(Recovered(hurst, *pairs))
    return found
