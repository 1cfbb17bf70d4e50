"""The library's cache without its copies: a step of a call writes its own keys and values, and moves no others."""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import DynamicLayer

LONG = 128
"""Fewer tokens are copied as the library does: a copy that stays in a processor's cache is as good as none."""
_SPARE = 4
"""Room is one part in so many larger than is needed."""


class GrowingLayer(DynamicLayer):  # type: ignore[misc]
    """The library's growing layer, in tensors that have room for more tokens.

    What attention is given has the same numbers in the same shape as from the library's layer.
    """

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self._rooms: list[torch.Tensor | None] = [None, None]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **named: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add tokens. All keys and values, shape (rows, heads, tokens, width)."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = self.get_seq_length() + key_states.shape[-2]
        if end < LONG or end == key_states.shape[-2]:  # the first tokens are followed by none in many calls
            return super().update(key_states, value_states)  # type: ignore[no-any-return]
        self.keys = self._extended(0, self.keys, key_states, end)
        self.values = self._extended(1, self.values, value_states, end)
        return self.keys, self.values

    def _extended(self, number: int, held: torch.Tensor, added: torch.Tensor, end: int) -> torch.Tensor:
        """What is held with the added tokens after it, `end` tokens."""
        room, start = self._rooms[number], end - added.shape[-2]
        if room is None or room.shape[-2] < end or room.data_ptr() != held.data_ptr():
            rows, heads, _, width = added.shape
            room = self._rooms[number] = added.new_empty((rows, heads, end + end // _SPARE, width))
            room[:, :, :start] = held
        room[:, :, start:end] = added
        return room[:, :, :end]


def let_grow(cache: Any) -> None:
    """Give a cache that holds nothing yet layers that grow in place, where it has the library's plain ones."""
    layers = getattr(cache, "layers", [])
    for number, layer in enumerate(layers):
        if type(layer) is DynamicLayer and not layer.is_initialized:
            layers[number] = GrowingLayer()
