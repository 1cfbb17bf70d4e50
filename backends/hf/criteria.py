"""The stopping criteria of a transformers call, as what ends one row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from transformers.generation import EosTokenCriteria, MaxLengthCriteria, MaxTimeCriteria, StopStringCriteria

from reasonctl.controller import ControllerError

from ..processors import check_stateless, copied

_STATELESS = (EosTokenCriteria, MaxLengthCriteria, MaxTimeCriteria, StopStringCriteria)


def check_criteria(criteria: Sequence[Any]) -> None:
    """Raises ControllerError for the first criterion of a batch that may count its calls or compare rows."""
    others = [criterion for criterion in criteria if type(criterion) not in _STATELESS]
    check_stateless(others, "running a batch row by row", "stopping criterion")


def own_criterion(criterion: Any) -> Any:
    """The criterion of one row of a batch: one that counts its calls counts its row's.

    Raises:
        ControllerError: it may keep a state, and can't be copied.
    """
    if type(criterion) in _STATELESS:
        return criterion
    return copied(criterion, "running a batch row by row", "stopping criterion")


def reader(padded: list[int], skip: int, device: torch.device) -> Callable[[Sequence[int]], torch.Tensor]:
    """A function from a run's tokens to what processors and criteria expect: the padded prompt, then the rest.

    skip: the tokens of the unpadded prompt, which the run's tokens begin with.
    """

    def read(tokens: Sequence[int]) -> torch.Tensor:
        return torch.tensor([padded + list(tokens[skip:])], device=device)

    return read


class Ends(NamedTuple):
    """What ends a row."""

    eos: frozenset[int]
    limit: int
    """Most new tokens."""
    stop: Callable[[Sequence[int], int], bool] | None
    """All other criteria as one question; `Call.stop`."""


def ends_of(criteria: Sequence[Any], length: int, read: Callable[[Sequence[int]], torch.Tensor]) -> Ends:
    """The call's stopping criteria for a row whose padded prompt has `length` tokens."""
    eos = frozenset(t for c in criteria if type(c) is EosTokenCriteria for t in c.eos_token_id.tolist())
    limit = min((c.max_length for c in criteria if type(c) is MaxLengthCriteria), default=1 << 62) - length
    others = [c for c in criteria if type(c) not in (EosTokenCriteria, MaxLengthCriteria)]

    def stop(tokens: Sequence[int], own_from: int) -> bool:
        ids = read(tokens)
        # A stop string counts where it lies wholly in the model's own text.
        own = ids[:, own_from - len(tokens) :] if own_from else ids
        return any(_says(criterion, own if type(criterion) is StopStringCriteria else ids) for criterion in others)

    return Ends(eos, limit, stop if others else None)


def _says(criterion: Any, ids: torch.Tensor) -> bool:
    """What a criterion says of one row. Raises ControllerError for an answer about more rows."""
    answer = torch.as_tensor(criterion(ids, None))
    if answer.numel() != 1:
        raise ControllerError(
            f"stopping criterion {type(criterion).__name__} answered for {answer.numel()} rows and was asked about 1; "
            "under a controller the rows of a batch run apart: answer for as many rows as input_ids has"
        )
    return bool(answer)
