"""What a call gives as its prompts: token ids, embeddings in their places, positions of its own.

Each row's prompt is taken out of the padded batch here. A run counts the rows of a prompt of embeddings like tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from transformers import DynamicCache

from reasonctl.controller import ControllerError

from ..token_ids import check_ids
from .forward import ModelForward

UNREAD = (
    "inputs_embeds or a cache without their input_ids: that part of the prompt isn't known, so markers in it aren't "
    "seen and its tokens count in no penalty; give the input_ids of all of it too"
)
"""What a trace says of a prompt whose tokens nobody knows."""


class Prompt(NamedTuple):
    """One row's prompt, without its padding."""

    tokens: list[int]
    """Ids; any one id in each place where `unread`."""
    embeds: torch.Tensor | None = None
    """Shape (1, tokens, width), fed in the places of the ids; None = the ids are fed."""
    lead: torch.Tensor | None = None
    """How far each position is ahead of its place, shape (1, tokens) or (axes, 1, tokens); None = nowhere."""
    unread: int = 0
    """The first tokens that have no id: there are embeddings, or a cache of the call's own, and no ids for them."""

    def same(self, other: Prompt) -> bool:
        """Whether both feed the same."""
        pairs = ((self.embeds, other.embeds), (self.lead, other.lead))
        return self.tokens == other.tokens and all(
            a is b or (a is not None and b is not None and torch.equal(a, b)) for a, b in pairs
        )


def length_of(input_ids: torch.Tensor, prepared: dict[str, Any]) -> int:
    """Places of the padded prompts; of embeddings alone there are no ids."""
    embeds = prepared.get("inputs_embeds")
    return int((input_ids if embeds is None else embeds).shape[1])


def prompts_of(
    forward: ModelForward, input_ids: torch.Tensor, prepared: dict[str, Any], positions: bool, total: int
) -> list[Prompt]:
    """The rows' prompts. Attention skips holes in the mask, and positions don't count them.

    Args:
        forward: the model's.
        input_ids: padded prompts, shape (rows, length); (rows, 0) for embeddings alone.
        prepared: arguments of the model's forward, as generate() has prepared them.
        positions: the call has given position_ids of its own.
        total: places that the call's mask showed, where generate() has dropped it.

    Raises:
        ControllerError: a prompt or a mask that can't be run.
    """
    mask, embeds, length = prepared.get("attention_mask"), prepared.get("inputs_embeds"), length_of(input_ids, prepared)
    unread = embeds is not None and input_ids.shape[1] != length
    if mask is not None and mask.shape != (len(input_ids), length):
        raise ControllerError(
            f"attention_mask has the shape {tuple(mask.shape)} and the prompts are {len(input_ids)} of "
            f"{length} places; give a mask with a value for each place"
        )
    places = torch.full((len(input_ids), length), _any_id(forward.model)) if unread else input_ids
    rows: list[list[int]] = places.tolist()
    shown = [None] * len(rows) if mask is None else [_shown(one, forward.recurrent) for one in mask.tolist()]
    given = prepared.get("position_ids") if (positions or embeds is not None) and forward.takes_positions else None
    found = []
    for row, (padded, seen) in enumerate(zip(rows, shown, strict=True)):
        tokens = padded if seen is None else [padded[i] for i in seen]
        if not unread:
            check_ids(tokens, forward.can.vocabulary, "the prompt")
        own = None if embeds is None else _columns(embeds[row : row + 1], seen)
        lead = None if given is None else _lead(given[..., -length:], row, seen)
        found.append(Prompt(tokens, own, lead, len(tokens) if unread else 0))
    if mask is None and len(found) == 1 and total > length and _held(forward, prepared) == total - length:
        before = total - length  # only the new tokens are given, after those in a cache of the call's own
        found = [Prompt([_any_id(forward.model)] * before + found[0].tokens, unread=before)]
    return found


def _held(forward: ModelForward, prepared: dict[str, Any]) -> int:
    """Tokens in the DynamicCache that the user has given; 0 without one."""
    cache: Any = prepared.get(forward.cache_name)
    given = isinstance(cache, DynamicCache) and getattr(cache, "_is_user_defined", False)
    return int(cache.get_seq_length()) if given else 0


def firsts_of(prompts: Sequence[Prompt]) -> list[int]:
    """For each row the first one with the same prompt."""
    return [next(i for i, other in enumerate(prompts) if prompt.same(other)) for prompt in prompts]


def _any_id(model: Any) -> int:
    """An id for places without one: an end of sequence, whose text marks nothing."""
    eos = getattr(model.generation_config, "eos_token_id", None)
    found = eos[0] if isinstance(eos, list) and eos else eos
    return found if isinstance(found, int) and found >= 0 else 0


def _shown(mask: list[int], recurrent: bool) -> list[int]:
    """The places that a mask shows. Raises ControllerError for a hole that a state would run through."""
    first = mask.index(1) if 1 in mask else 0
    if recurrent and 0 in mask[first:]:
        raise ControllerError("attention_mask has a hole; a recurrent state runs through holes: pass a mask of ones")
    return [place for place, seen in enumerate(mask) if seen]


def _columns(embeds: torch.Tensor, shown: list[int] | None) -> torch.Tensor:
    return embeds if shown is None else embeds[:, shown]


def _lead(positions: torch.Tensor, row: int, shown: list[int] | None) -> torch.Tensor | None:
    """How far one row's positions are ahead of its places; None where they aren't."""
    row = row if positions.shape[-2] > 1 else 0
    own = positions[..., row : row + 1, :]
    own = own if shown is None else own[..., shown]
    lead = own - torch.arange(own.shape[-1], device=own.device)
    return lead if bool(lead.any()) else None
