"""Fractal exponents of a series: Hurst by rescaled range and by DFA, Joseph and self-similarity, with intervals.

After "Fractal Patterns May Illuminate the Success of Next-Token Prediction" (arXiv 2402.01825) and "A Tale of Two
Structures" (arXiv 2502.14924). Each exponent is the slope of a straight line through five points, log statistic against
log size. Every statistic is a mean over windows, so that it can be pooled over documents and resampled block by block.

    size n                16, 32, 64, 128, 256 tokens
    rescaled range        E[R / S] of windows of n                    ~ n^H       (Hurst 1951)
    DFA, order 1          E[squared residual of the walk's windows]   ~ n^(2 H)   (Peng et al. 1994)
    Joseph                E[(X_{t+n} - X_t)^2]                        ~ n^(2 J)   (Mandelbrot & Wallis 1968)
    self-similarity       P(|X_{t+n} - X_t| <= 0.05)                  ~ n^(-S)    (arXiv 2402.01825, section 2)

X is the walk, the running sum of the series, whose documents have mean 0 and variance 1 each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from reasonctl.controller import ControllerError

Array = npt.NDArray[np.float64]

SIZES = (16, 32, 64, 128, 256)
"""Sizes of windows, and lags, in tokens."""
BLOCK = SIZES[-1]
"""Tokens that the bootstrap keeps together."""
LEAST_DOCUMENT = 2 * BLOCK
"""Shortest document, in tokens."""
LEAST_BLOCKS = 8
"""Fewest blocks, over all documents. On fewer the estimate's standard error is as large as what texts differ by."""
LEAST_POOLED = 50_000
"""Fewest tokens, over all documents, for the self-similarity exponent."""
EPSILON = 0.05
"""How near X_{t+n} comes to X_t where they count as the same."""
RESAMPLES = 1000
"""Bootstrap samples."""


class Exponent(NamedTuple):
    """An exponent with its interval by the block bootstrap (percentiles 2.5 and 97.5 of the samples).

    It covers the mean of the estimates less often than 95 of 100 times: docs/fractal.md has the measured coverage.
    """

    value: float
    """The estimate."""
    low: float
    """The interval's lower end."""
    high: float
    """Its upper end."""
    points: tuple[float, ...]
    """The statistic at each of SIZES; its root where it is a square."""


@dataclass(frozen=True)
class Exponents:
    """What several documents of one source give together."""

    documents: int
    """Documents."""
    tokens: int
    """Tokens that were used: whole blocks only."""
    rescaled_range: Exponent
    """The Hurst exponent by rescaled range: about 0.55 for noise without memory at these sizes, biased upwards."""
    dfa: Exponent
    """The Hurst exponent by detrended fluctuation analysis of order 1: about 0.52 for noise without memory."""
    joseph: Exponent
    """The Joseph exponent."""
    self_similarity: Exponent | None
    """The self-similarity exponent. None: fewer than LEAST_POOLED tokens."""

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        values = vars(self)
        found = {name: one._asdict() for name, one in values.items() if isinstance(one, Exponent)}
        return values | found


class _Sums(NamedTuple):
    """A statistic's sums over the windows of each block."""

    total: Array
    """Shape (blocks, sizes)."""
    windows: Array
    """How many: shape (blocks, sizes)."""


def exponents(documents: Sequence[Array], *, seed: int = 0, resamples: int = RESAMPLES) -> Exponents:
    """The exponents of documents together.

    Args:
        documents: A series each, of shape (tokens,). What remains after the last whole block of 256 isn't used.
        seed: Of the bootstrap.
        resamples: Bootstrap samples, at least 1.

    Raises:
        ControllerError: A document is shorter than LEAST_DOCUMENT or doesn't vary, or there are too few blocks.
    """
    walks = [np.cumsum(standardised(one)) for one in documents]
    blocks = sum(len(one) // BLOCK for one in documents)
    if blocks < LEAST_BLOCKS:
        raise ControllerError(
            f"{blocks * BLOCK} tokens in whole blocks of {BLOCK} are too few: the exponents would be noise; "
            f"give {LEAST_BLOCKS * BLOCK} or more"
        )
    draws = np.random.default_rng(seed).multinomial(blocks, [1 / blocks] * blocks, resamples).astype(np.float64)
    tokens = blocks * BLOCK

    def pooled(statistic: Any, factor: float) -> Exponent:
        each = [statistic(walk) for walk in walks]
        sums = _Sums(np.concatenate([one.total for one in each]), np.concatenate([one.windows for one in each]))
        return _exponent(sums, draws, factor)

    return Exponents(
        documents=len(documents),
        tokens=tokens,
        rescaled_range=pooled(_rescaled_range, 1.0),
        dfa=pooled(_fluctuation, 0.5),
        joseph=pooled(_squared_increment, 0.5),
        self_similarity=pooled(_returns, -1.0) if tokens >= LEAST_POOLED else None,
    )


def standardised(series: Array) -> Array:
    """A document's series with mean 0 and variance 1. Shape (tokens,).

    Raises:
        ControllerError: It is too short, or doesn't vary.
    """
    given = np.asarray(series, dtype=np.float64)
    if len(given) < LEAST_DOCUMENT:
        raise ControllerError(f"a document has {len(given)} tokens; exponents need {LEAST_DOCUMENT} or more")
    spread = float(given.std())
    if not np.isfinite(given).all() or spread == 0.0:
        raise ControllerError("a document's series is constant or not finite; exponents need one that varies")
    found: Array = (given - given.mean()) / spread
    return found


def range_sums(documents: Sequence[Array]) -> tuple[Array, Array]:
    """Rescaled ranges of each document: their sums over windows, and how many; each of shape (documents, sizes)."""
    each = [_rescaled_range(np.cumsum(standardised(one))) for one in documents]
    return np.stack([one.total.sum(axis=0) for one in each]), np.stack([one.windows.sum(axis=0) for one in each])


def slopes(total: Array, windows: Array) -> Array:
    """The slopes of log mean statistic against log size. Shape (n,).

    Args:
        total: Sums of the statistic, of shape (n, sizes).
        windows: How many windows each sum has; the same shape.
    """
    x = np.log(SIZES)
    x = x - x.mean()
    with np.errstate(divide="ignore", invalid="ignore"):
        y = np.log(total) - np.log(windows)
    found: Array = (y @ x) / (x @ x)
    return found


def _windows(series: Array, size: int) -> Array:
    """The windows of each whole block. Shape (blocks, windows, size)."""
    blocks = len(series) // BLOCK
    return series[: blocks * BLOCK].reshape(blocks, BLOCK // size, size)


def _sums(of_size: Any) -> _Sums:
    """Sums over each block, from a function of the size that gives values of shape (blocks, windows), NaN for none."""
    values = [of_size(size) for size in SIZES]
    return _Sums(
        np.stack([np.nansum(one, axis=1) for one in values], axis=1),
        np.stack([np.isfinite(one).sum(axis=1) for one in values], axis=1).astype(np.float64),
    )


def _rescaled_range(walk: Array) -> _Sums:
    steps = np.diff(walk, prepend=0.0)

    def of_size(size: int) -> Array:
        windows = _windows(steps, size)
        spread = windows.std(axis=2)
        inner = np.cumsum(windows - windows.mean(axis=2, keepdims=True), axis=2)
        extent = inner.max(axis=2) - inner.min(axis=2)
        found: Array = np.divide(extent, spread, out=np.full_like(extent, np.nan), where=spread > 0)
        return found

    return _sums(of_size)


def _fluctuation(walk: Array) -> _Sums:
    def of_size(size: int) -> Array:
        windows = _windows(walk, size)
        x = np.arange(size) - (size - 1) / 2
        centred = windows - windows.mean(axis=2, keepdims=True)
        residual = centred - (centred @ x / (x @ x))[..., None] * x
        found: Array = (residual**2).mean(axis=2)
        return found

    return _sums(of_size)


def _increments(walk: Array, size: int) -> Array:
    """X_{t+n} - X_t for every t of each block, NaN where the document ends first. Shape (blocks, 256)."""
    used = len(walk) // BLOCK * BLOCK
    found = np.full(used, np.nan)
    ends = walk[size:][:used]
    found[: len(ends)] = ends - walk[: len(ends)]
    return found.reshape(-1, BLOCK)


def _squared_increment(walk: Array) -> _Sums:
    return _sums(lambda size: _increments(walk, size) ** 2)


def _returns(walk: Array) -> _Sums:
    def of_size(size: int) -> Array:
        steps = _increments(walk, size)
        return np.where(np.isnan(steps), np.nan, np.abs(steps) <= EPSILON)

    return _sums(of_size)


def _exponent(sums: _Sums, draws: Array, factor: float) -> Exponent:
    """The slope times `factor`, and the percentiles of the slopes of resampled blocks."""
    whole = np.ones((1, len(sums.total)))
    resampled = factor * slopes(draws @ sums.total, draws @ sums.windows)
    low, high = np.nanpercentile(np.where(np.isfinite(resampled), resampled, np.nan), [2.5, 97.5])
    points = (whole @ sums.total / (whole @ sums.windows))[0] ** abs(factor)
    value = factor * float(slopes(whole @ sums.total, whole @ sums.windows)[0])
    return Exponent(value, float(low), float(high), tuple(map(float, points)))
