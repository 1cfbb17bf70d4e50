"""Tests of Hurst exponents by rescaled range: whether the order of tokens matters, and whether two sources differ.

Both are permutation tests: exact under their null hypothesis whatever the surprisals' distribution is, so that they
need none of the bootstrap's intervals.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .fractal import Array, Exponent, Exponents, exponents, range_sums, slopes

SHUFFLES = 99
"""Shuffles of all documents; p is 0.01 at least."""
LEAST_SHUFFLES = 39
"""The same where documents are many."""
MOST_SHUFFLED = 1_800_000
"""Tokens of all shuffles together, where that leaves LEAST_SHUFFLES: about a second on one core."""
RELABELLED = 1999
"""Permutations of the labels of documents."""
LEVEL = 0.05
"""Where p is at most this, a verdict is given. The chance of a false alarm."""


class ShuffleTest(NamedTuple):
    """What is left of exponents where the tokens of each document are shuffled."""

    p: float
    """(1 + shuffles whose exponent by rescaled range is at least as large) / (1 + shuffles)."""
    shuffles: int
    """How many were drawn."""
    reference: Exponents
    """The mean of each exponent over the shuffles; the interval holds 95 % of them."""


def shuffles_of(tokens: int) -> int:
    """How many shuffles are drawn of so many tokens.

    >>> shuffles_of(16 * 1024), shuffles_of(1_000_000)
    (99, 39)
    """
    return max(LEAST_SHUFFLES, min(SHUFFLES, MOST_SHUFFLED // tokens))


def shuffle_test(documents: Sequence[Array], *, seed: int = 0) -> ShuffleTest:
    """Test whether the order of tokens matters; its null hypothesis is that a document's tokens could change places.

    Any dependence within 256 tokens can make it small, also one that dies out after a few tokens.

    Args:
        documents: As `exponents` takes them.
        seed: Of the shuffles.

    Raises:
        ControllerError: As `exponents` raises it.
    """
    found = exponents(documents, resamples=1).rescaled_range.value
    count = shuffles_of(sum(map(len, documents)))
    rng = np.random.default_rng([seed, 1])
    drawn = [exponents([rng.permutation(one) for one in documents], resamples=1) for _ in range(count)]
    as_large = sum(one.rescaled_range.value >= found for one in drawn)
    reference = Exponents(
        drawn[0].documents,
        drawn[0].tokens,
        _mean([one.rescaled_range for one in drawn]),
        _mean([one.dfa for one in drawn]),
        _mean([one.joseph for one in drawn]),
        None if drawn[0].self_similarity is None else _mean([one.self_similarity for one in drawn]),
    )
    return ShuffleTest((1 + as_large) / (1 + count), count, reference)


def _mean(drawn: Sequence[Exponent | None]) -> Exponent:
    values = np.array([one.value for one in drawn if one is not None])
    low, high = np.percentile(values, [2.5, 97.5])
    points = np.mean([one.points for one in drawn if one is not None], axis=0)
    return Exponent(float(values.mean()), float(low), float(high), tuple(map(float, points)))


def label_test(first: Sequence[Array], second: Sequence[Array], *, seed: int = 0) -> float:
    """p of the two-sided permutation test that two sources have the same exponent by rescaled range.

    Its null hypothesis is that documents could change their source. With four documents of each p is 2/70 at least.

    Args:
        first, second: Documents, as `exponents` takes them.
        seed: Of the permutations.
    """
    total, windows = range_sums([*first, *second])
    labels = np.repeat([1.0, 0.0], [len(first), len(second)])
    rng = np.random.default_rng([seed, 2])
    drawn = rng.permuted(np.tile(labels, (RELABELLED, 1)), axis=1)
    weights = np.concatenate([labels[None], drawn])
    apart = np.abs(slopes(weights @ total, weights @ windows) - slopes((1 - weights) @ total, (1 - weights) @ windows))
    as_large = int((apart[1:] >= apart[0] - 1e-12).sum())
    return (1 + as_large) / (1 + RELABELLED)
