"""Token ids at the door: what leaves the vocabulary is refused before a library reads it.

llama.cpp ends the process on such an id, and a GPU leaves its kernels in an undefined state.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import index
from typing import Any

from reasonctl.controller import ControllerError


def as_ids(values: Iterable[Any], what: str) -> list[int]:
    """Token ids as Python's own integers.

    Args:
        values: Integers of any library; booleans are 0 and 1, as everywhere in Python.
        what: Where they come from, for the message.

    Raises:
        ControllerError: One of them is no integer; a float isn't cut down to one.

    >>> as_ids([5, True], "the prompt")
    [5, 1]
    """
    found = []
    for value in values:
        try:
            found.append(index(value))
        except TypeError:
            raise ControllerError(
                f"{what} holds {value!r:.40}, which is no token id; give whole numbers in one flat list"
            ) from None
    return found


def check_rows(ids: Any) -> None:
    """Refuse a tensor that is no batch of prompts. Raises ControllerError unless it has integers in rows."""
    if ids.ndim != 2 or not len(ids) or ids.is_floating_point():
        raise ControllerError(
            f"the prompts are a tensor of shape {tuple(ids.shape)} and type {ids.dtype}; give integers, "
            "in the shape (rows, tokens)"
        )


def check_ids(tokens: Sequence[int], vocabulary: int, what: str) -> None:
    """Refuse token ids that the model doesn't have.

    Args:
        tokens: ids.
        vocabulary: number of the model's ids, which begin at 0.
        what: where the ids come from, for the message.

    Raises:
        ControllerError: the first id outside of the vocabulary.

    >>> check_ids([85, 3], 100, "the prompt")
    >>> check_ids([85, -1], 100, "the prompt")
    Traceback (most recent call last):
    reasonctl.controller.core.errors.ControllerError: the prompt has the token id -1; this model's are 0 to 99
    """
    if not tokens or (min(tokens) >= 0 and max(tokens) < vocabulary):
        return
    first = next(token for token in tokens if not 0 <= token < vocabulary)
    raise ControllerError(f"{what} has the token id {first}; this model's are 0 to {vocabulary - 1}")


def check_fits(length: int, wanted: int, longest: int) -> None:
    """Check that a sequence of so many tokens can take the wanted ones. Raises ControllerError where it can't."""
    if length + wanted > longest:
        tokens = f"{length} tokens and {wanted} more" if length else f"{wanted} tokens"
        raise ControllerError(
            f"{tokens} don't fit the model's context of {longest}; shorten the prompt, ask for fewer new tokens, or "
            "load the model with a larger context"
        )
