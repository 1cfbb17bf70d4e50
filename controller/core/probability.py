"""From one row of logits to probabilities, all in float64: softmax, log-probability, entropy.

`sampling/candidates.py` keeps rows of a large vocabulary in the precision they come in, so it centres logits itself; it
takes the entropy's formula from here.
"""

from __future__ import annotations

import numpy as np

from .decode import Floats

_FLOOR = -1000.0
"""Stands in for -inf where it is multiplied by a weight of 0: exp(-1000) is 0 in float64 too."""


def softmax(logits: Floats, temperature: float = 1.0) -> Floats:
    """Probabilities of a row.

    Args:
        logits: shape (vocabulary,), -inf where impossible.
        temperature: above 0.

    Returns:
        Shape (vocabulary,), float64; sums to 1.

    >>> softmax(np.log([3.0, 1.0])).round(4).tolist()
    [0.75, 0.25]
    """
    weights = np.exp((logits.astype(np.float64) - float(logits.max())) / temperature)
    probs: Floats = weights / weights.sum()
    return probs


def log_prob(logits: Floats, token: int) -> float:
    """Log-probability of `token` under softmax(logits), in nats; logits of shape (vocabulary,).

    >>> round(log_prob(np.log([3.0, 1.0]), 0), 4)
    -0.2877
    """
    shifted = logits.astype(np.float64) - float(logits.max())
    return float(shifted[token] - np.log(np.exp(shifted).sum()))


def entropy(logits: Floats) -> float:
    """Entropy of softmax(logits), in nats; logits of shape (vocabulary,), -inf where impossible.

    >>> round(entropy(np.zeros(8)), 4), entropy(np.array([0.0, -np.inf]))
    (2.0794, 0.0)
    """
    shifted = logits.astype(np.float64) - float(logits.max())
    weights = np.exp(shifted)
    return entropy_of(shifted, weights, float(weights.sum()))


def entropy_of(shifted: Floats, weights: Floats, mass: float) -> float:
    """Entropy of a row whose parts are known, in nats.

    Args:
        shifted: shape (n,), logits with their maximum at 0.
        weights: shape (n,), exp(shifted).
        mass: the sum of the weights.
    """
    with np.errstate(invalid="ignore"):
        inner = float(weights @ shifted)
    if inner != inner:  # NaN: a weight of 0 times -inf
        inner = float(weights @ np.maximum(shifted, _FLOOR))
    return max(float(np.log(mass)) - inner / mass, 0.0)
