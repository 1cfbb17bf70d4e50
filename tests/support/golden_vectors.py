"""The specification's test vectors, and the forms they are tried in: both precisions, short rows and long ones."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

L = np.array([5.0, 4.2, 4.0, 3.1, 2.5, 1.0, 0.3, 0.0, -1.0, -3.0])
F = np.array([2.0, 1.9, 1.8, 1.6, 1.5, 1.2, 0.8, 0.0, -1.0, -2.0])
WITH, WITHOUT = np.array([4.0, 1.0, 0.5, 0.0]), np.array([1.0, 1.5, 0.5, 0.2])
"""Logits with and without the source of KL-guided temperature."""

TO_4_DECIMALS = 5.001e-5

Form = Callable[[np.ndarray], np.ndarray]


def _padded(kind: type, length: int) -> Form:
    def form(logits: np.ndarray) -> np.ndarray:
        row = np.full(max(length, len(logits)), -np.inf, dtype=kind)
        row[: len(logits)] = logits
        return row

    return form


FORMS = {
    f"{kind.__name__} {name}": _padded(kind, length)
    for kind in (np.float32, np.float64)
    for name, length in (("short", 0), ("long", 5_000))
}
"""Rows below 4,096 tokens are computed in float64 whatever they come in; impossible tokens make them longer."""


def probs_of(chain, logits) -> np.ndarray:
    """What a chain makes of logits; shape (vocabulary,)."""
    return np.asarray(chain.probs(logits))
