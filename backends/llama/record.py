"""The Llama's own record of what its cache holds: arrays of token ids and of logits."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from reasonctl.controller import Candidates

IMPOSSIBLE = -9999.0
"""Log-probability of a token that can't be drawn: JSON has no infinity, and this is what OpenAI's interface writes."""


def lengthened(array: npt.NDArray[Any], length: int) -> npt.NDArray[Any]:
    """The array with at least `length` rows."""
    missing = length - len(array)
    return array if missing <= 0 else np.concatenate([array, np.zeros((missing, *array.shape[1:]), array.dtype)])


def write_drawn(scores: npt.NDArray[np.single], position: int, candidates: Candidates) -> None:
    """Let the record of logits hold what the token at a position is drawn from, for the library's `logprobs`.

    Args:
        scores: The record, shape (positions, vocabulary).
        position: The token's.
        candidates: What it is drawn from.
    """
    row = scores[position - 1]
    row[:] = IMPOSSIBLE
    row[slice(None) if candidates.ids is None else candidates.ids] = np.maximum(-candidates.surprise(), IMPOSSIBLE)
