"""The log-probability of an answer under a masked model, estimated: coupled complementary masks, and plain ones.

DiffuCoder's coupled-GRPO (arXiv 2506.20639, section 4.2) needs log pi(answer) with little variance. Every estimate here
asks for forwards with some of the answer masked and reads the log-probabilities of its masked tokens.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import NamedTuple

import numpy as np

from ..core.decode import Floats
from ..core.randomness import Keys
from .canvas import Denoise, PrefixCache

PAIRS = 7
"""Purpose of the uniforms that say which tokens a mask hides."""


class Estimate(NamedTuple):
    """An estimated log-probability."""

    tokens: Floats
    """Shape (answer,): each token's estimated log-probability."""
    forwards: int
    """What it cost."""

    @property
    def total(self) -> float:
        """The answer's."""
        return float(self.tokens.sum())


def complementary(length: int, share: float, keys: Keys, pair: int) -> np.ndarray:
    """A random mask over `share` of an answer, at least one token and not all. The other of the pair is its opposite.

    Shape (length,), boolean. Each token is masked in exactly one of the two.
    """
    count = min(max(round(share * length), 1), length - 1)
    ranks = np.array([keys.uniform(at, PAIRS, 4 * pair) for at in range(length)])
    hidden = np.zeros(length, dtype=bool)
    hidden[np.argsort(ranks, kind="stable")[:count]] = True
    return hidden


def answer_log_prob(
    prompt: Sequence[int], answer: Sequence[int], hidden: Floats, mask: int
) -> Generator[Denoise, Floats, Floats]:
    """Log-probability of each hidden token given all others; 0 elsewhere. Shape (answer,). One forward."""
    shown = [mask if one else token for token, one in zip(answer, hidden, strict=True)]
    places = [int(at) for at in np.flatnonzero(hidden)]
    positions = [len(prompt) + at for at in places]
    logits = yield Denoise((*prompt, *shown), positions, PrefixCache())
    rows = np.array(logits, dtype=np.float64)
    rows[:, mask] = -np.inf
    rows -= rows.max(-1, keepdims=True)
    found = np.zeros(len(answer))
    chosen = [answer[at] for at in places]
    found[places] = rows[np.arange(len(rows)), chosen] - np.log(np.exp(rows).sum(-1))
    return found


def coupled_log_prob(
    prompt: Sequence[int], answer: Sequence[int], mask: int, keys: Keys, *, pairs: int = 1
) -> Generator[Denoise, Floats, Estimate]:
    """The coupled estimate: all tokens masked once, and `pairs` complementary pairs, averaged (lambda = pairs).

    A pair's rate t is uniform in (0.2, 0.8), as in DiffuCoder's code. In a pair each token is scored exactly once,
    whatever was masked, so that no token of the answer is left out.

    Returns:
        1 / (pairs + 1) x (sum of the pairs + all masked); 2 x pairs + 1 forwards.
    """
    length = len(answer)
    total = yield from answer_log_prob(prompt, answer, np.ones(length, dtype=bool), mask)
    if length > 1:
        for pair in range(pairs):
            first = complementary(length, rate(keys, pair), keys, pair)
            total = total + (yield from answer_log_prob(prompt, answer, first, mask))
            total = total + (yield from answer_log_prob(prompt, answer, ~first, mask))
        total = total / (pairs + 1)
    return Estimate(total, 2 * pairs + 1 if length > 1 else 1)


def independent_log_prob(
    prompt: Sequence[int], answer: Sequence[int], mask: int, keys: Keys, *, pairs: int = 1
) -> Generator[Denoise, Floats, Estimate]:
    """The estimate of the same expectation and cost whose masks are all drawn apart, each with its own rate.

    On average a token is hidden in one of two masks, as in a pair; in one case it is hidden in none and in another in
    both.
    """
    length = len(answer)
    total = yield from answer_log_prob(prompt, answer, np.ones(length, dtype=bool), mask)
    if length > 1:
        for draw in range(2 * pairs):
            hidden = complementary(length, rate(keys, draw), keys, draw)
            total = total + (yield from answer_log_prob(prompt, answer, hidden, mask))
        total = total / (pairs + 1)
    return Estimate(total, 2 * pairs + 1 if length > 1 else 1)


def rate(keys: Keys, pair: int) -> float:
    """The share of tokens that a pair's first mask hides, uniform in (0.2, 0.8)."""
    return 0.2 + 0.6 * keys.uniform(0, PAIRS, 4 * pair + 1)
