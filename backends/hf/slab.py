"""Keys and values of many sequences in common tensors, so that one attention call serves all of them.

Each layer has one tensor of keys and one of values, shape (key heads, slots, columns, width). A sequence owns a slot.
Growing writes into columns that are there already, rolling back only shortens a count, and nothing is concatenated.
Heads come first because attention reads all columns of one head at a time: they lie next to each other.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import torch

_COLUMNS = 64
"""Tensors have a multiple of so many columns."""
_SPARE = 4
"""Columns grow by one part in so many more than is needed, so that growing costs little in total."""


class Slot:
    """One sequence in a slab: `columns` tokens from the slot's first column on."""

    def __init__(self, slab: Slab, index: int) -> None:
        self.slab = slab
        self.index = index
        """Row of the slab's tensors; it changes after another sequence has left."""
        self.columns = 0
        """Tokens that the slot holds, with those of a draft that isn't kept yet."""
        self.left = False
        """Nobody has the sequence any more; the slab takes the slot back at its next change."""

    @torch.inference_mode()
    def gather(self, path: Sequence[int], end: int) -> None:
        """Move columns `end + path[i]` to `end + i`; path ascends."""
        for layer in self.slab.layers.values():
            columns = torch.tensor(path, device=layer.keys.device) + end
            for states in layer:
                states[:, self.index, end : end + len(path)] = states[:, self.index, columns]

    def crop(self, n: int) -> None:
        """Forget the last n columns."""
        self.columns -= n

    @torch.inference_mode()
    def fork(self) -> Slot:
        """Another slot with the same tokens."""
        made = self.slab.open()
        made.columns = self.columns
        for layer in self.slab.layers.values():
            for states in layer:
                states[:, made.index, : self.columns] = states[:, self.index, : self.columns]
        return made

    @torch.inference_mode()
    def states(self) -> dict[int, LayerSlab]:
        """Copies of keys and values by layer, each of shape (1, key heads, columns, width)."""
        return {
            number: LayerSlab(*(states[:, self.index, : self.columns][None].clone() for states in layer))
            for number, layer in self.slab.layers.items()
        }

    @torch.inference_mode()
    def fill(self, number: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Take over a layer's keys and values, shape (1, key heads, columns, width), as the slot's only ones."""
        layer = self.slab.layer(number, keys, values)
        for mine, given in zip(layer, (keys, values), strict=True):
            mine[:, self.index, : self.columns] = given[0]

    def close(self) -> None:
        """Give the slot back; a second call does nothing."""
        self.left = True
        self.slab.closed()


class LayerSlab(NamedTuple):
    """One layer's keys and values."""

    keys: torch.Tensor
    values: torch.Tensor


class Slab:
    """The slots of one engine. In a forward they have no gaps: a sequence that has left is replaced by the last one."""

    def __init__(self) -> None:
        self.layers: dict[int, LayerSlab] = {}
        self.slots: list[Slot] = []
        self.room = 0
        """Slots that all tensors have at least; more where one was resized and another could not be."""
        self.columns = 0
        """Columns that all tensors have at least."""

    @property
    def bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(states.nbytes for layer in self.layers.values() for states in layer)

    def open(self) -> Slot:
        """An empty slot."""
        self._sweep()
        slots = len(self.slots) + 1
        if slots > self.room:
            self._resize(self.room_for(slots) if self.layers else slots, self.columns)
        slot = Slot(self, slots - 1)
        self.slots.append(slot)
        return slot

    def own(self, slot: Slot, owner: object) -> weakref.finalize[..., Any]:
        """Tie a slot to its owner: it is given back after the owner was collected."""
        return weakref.finalize(owner, _abandon, slot)

    def reserve(self, columns: int) -> None:
        """Make room for so many columns in every slot. Slots may move: read their numbers afterwards."""
        self._sweep()
        if columns > self.columns:
            self._resize(self.room, self.columns_for(columns))

    @staticmethod
    def room_for(slots: int) -> int:
        """Slots that tensors get which have to hold one more than they have room for."""
        return max(slots, (slots - 1) * 3 // 2)

    @staticmethod
    def columns_for(tokens: int) -> int:
        """Columns that tensors get which have to hold so many tokens."""
        return -(-(tokens + tokens // _SPARE) // _COLUMNS) * _COLUMNS

    def layer(self, number: int, keys: torch.Tensor, values: torch.Tensor) -> LayerSlab:
        """A layer's tensors, made at first use for states of shape (1, key heads, columns, width)."""
        if number not in self.layers:
            self.layers[number] = LayerSlab(
                *(
                    states.new_zeros((states.shape[1], self.room, self.columns, states.shape[3]))
                    for states in (keys, values)
                )
            )
        return self.layers[number]

    def closed(self) -> None:
        """A slot was given back. It is taken back at the next change, or now where most of the memory is idle."""
        if 4 * sum(not slot.left for slot in self.slots) <= self.room:
            self._sweep()

    @torch.inference_mode()
    def _sweep(self) -> None:
        """Take back the slots that were left, and give memory back once most of it is idle."""
        if all(slot.left for slot in self.slots):
            self.layers, self.slots, self.room, self.columns = {}, [], 0, 0
            return
        for slot in [slot for slot in reversed(self.slots) if slot.left]:
            self._take_back(slot)
        if 4 * len(self.slots) <= self.room:
            with suppress(RuntimeError):  # there is no memory for smaller ones: the large ones stay
                self._resize(self.room // 2, self.columns)

    def _take_back(self, slot: Slot) -> None:
        """Take a slot back: the last sequence moves to its place."""
        last = self.slots.pop()
        for layer in self.layers.values():
            for states in layer:
                if last is not slot:
                    states[:, slot.index, : last.columns] = states[:, last.index, : last.columns]
                # What is left there would be read, masked, by the next sequence: zeros can't be NaN.
                states[:, last.index, : last.columns] = 0
                if slot.columns > last.columns and last is not slot:
                    states[:, slot.index, last.columns : slot.columns] = 0
        if last is not slot:
            last.index = slot.index
            self.slots[slot.index] = last

    @torch.inference_mode()
    def _resize(self, room: int, columns: int) -> None:
        """Resize layer by layer, so that old and new tensors of one layer only are there at once.

        A failure leaves layers of two sizes, which is no harm: each is read by its own strides, and `room` and
        `columns` are those of the smallest.
        """
        slots, used = min(room, self.room), min(columns, self.columns)
        self.room, self.columns = slots, used
        for number, layer in self.layers.items():
            if layer.keys.shape[1:3] == (room, columns):
                continue
            made: list[Any] = []
            for states in layer:
                heads, _, _, width = states.shape
                grown = states.new_zeros((heads, room, columns, width))
                grown[:, :slots, :used] = states[:, :slots, :used]
                made.append(grown)
            self.layers[number] = LayerSlab(*made)
        self.room, self.columns = room, columns


def _abandon(slot: Slot) -> None:
    # A collector runs anywhere, even inside a forward: the slab's tensors must not move here.
    slot.left = True
