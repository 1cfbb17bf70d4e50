"""States of a cache that take no token back: which layers have them, copies of them, and how a model continues them.

Attention layers roll back by cropping. What a layer holds besides, the state of a recurrence or of a convolution, is
copied at a checkpoint. Copies are cheaper than `activate_past_recording`, even for convolutions and small windows: a
recorded state grows with every token and keeps the library from its own step for one token.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import torch
from transformers import cache_utils
from transformers.cache_utils import (
    DynamicIndexedLayer,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionCacheLayerMixin,
)

_DUMMY = (cache_utils.DummyLayer,) if "DummyLayer" in vars(cache_utils) else ()
"""Stands for a layer without a cache; transformers has it from 5.20 on."""

_CROPPED = (DynamicLayer, DynamicSlidingWindowLayer, DynamicIndexedLayer, *_DUMMY)
"""Layers that take tokens back. A subclass may hold more, so it counts as one with a state."""

_SHARED = (DynamicLayer, DynamicSlidingWindowLayer)
"""Layers that grow by concatenation: nothing writes into tensors that a copy can see, so copies share tensors."""

_KINDS = ("conv_states", "recurrent_states")
"""Where a layer of the library has its states: dictionaries of tensors, which it writes in place."""

_NEAR = 0.5
"""Most error of a state that was continued, over what an empty state would change; it is 1 where none was."""

_NO_CHANGE = 1e-4
"""A state that changes less of a row, by its norm, isn't used."""

_PREFIX = 8
"""Tokens before those that are fed in both ways."""
MOST_ASKED = _PREFIX + 3
"""Tokens that `ask` feeds."""

Saved = dict[int, Any]
"""Copied layers by number: those with a state."""


def has_state(layer: Any) -> bool:
    """Whether a layer takes no token back."""
    return type(layer) not in _CROPPED


def copied(layer: Any) -> Any:
    """An independent copy of a layer; keys and values are shared where they grow by concatenation."""
    if type(layer) in _SHARED:
        return copy.copy(layer)
    if not isinstance(layer, LinearAttentionCacheLayerMixin):
        return copy.deepcopy(layer)
    made = copy.copy(layer)
    for name, value in vars(layer).items():
        if isinstance(value, dict):
            setattr(made, name, {i: held.clone() if torch.is_tensor(held) else held for i, held in value.items()})
    return made


def crop(layer: Any, n: int) -> None:
    """Remove the last n > 0 tokens of a layer without a state."""
    if type(layer) is DynamicSlidingWindowLayer:
        if layer.is_initialized:
            # Its own crop would drop the recorded past, and the next rollback with it.
            layer.keys, layer.values = layer.keys[..., :-n, :], layer.values[..., :-n, :]
            layer.cumulative_length -= n
    else:
        layer.crop(-n)


def undo(layer: Any, length: int) -> None:
    """Bring a layer without a state back to its first `length` tokens, after a forward that failed.

    It may have failed between the layer's keys and its values, so these needn't be equally long.
    """
    if type(layer) not in _SHARED:
        crop(layer, max(0, layer.get_seq_length() - length))
    elif layer.is_initialized:
        # Before its first token a layer holds tensors of one dimension.
        layer.keys, layer.values = (
            states[..., :length, :] if states.ndim > 1 else states for states in (layer.keys, layer.values)
        )
        if type(layer) is DynamicSlidingWindowLayer:
            layer.cumulative_length = length


def record_windows(cache: Any) -> None:
    """Let windows keep what has left them, because a rollback may need it again."""
    for layer in cache.layers:
        if type(layer) is DynamicSlidingWindowLayer:
            layer.activate_past_recording()


def save(cache: Any) -> Saved:
    """Copies of all layers with a state."""
    saved = {number: copied(layer) for number, layer in enumerate(cache.layers) if has_state(layer)}
    for layer in saved.values():
        if isinstance(layer, LinearAttentionAndFullAttentionLayer):
            layer.keys = layer.values = None  # these are cropped: the copy would keep them twice
    return saved


def restore(cache: Any, saved: Saved, n: int) -> None:
    """Put a cache back to where `saved` was copied, n tokens ago. The copies stay as they are."""
    for number, layer in enumerate(cache.layers):
        if number not in saved:
            if n:
                crop(layer, n)
            continue
        made = cache.layers[number] = copied(saved[number])
        if isinstance(made, LinearAttentionAndFullAttentionLayer) and layer.keys is not None:
            end = layer.keys.shape[-2] - n
            made.keys, made.values = layer.keys[..., :end, :], layer.values[..., :end, :]


def size(saved: Saved) -> int:
    """Bytes of the copies."""
    tensors = {id(held): held for layer in saved.values() for held in _tensors(vars(layer).values())}
    return sum(held.nbytes for held in tensors.values())


def _tensors(values: Iterable[Any]) -> list[torch.Tensor]:
    found = list[torch.Tensor]()
    for value in values:
        if torch.is_tensor(value):
            found.append(value)
        elif isinstance(value, dict):
            found += _tensors(value.values())
    return found


class Continuing(NamedTuple):
    """How a model keeps and continues its states."""

    in_cache: bool
    """Its states are in the cache. False: they are in its modules, where all sequences would share them."""
    several: bool
    """Several tokens at once give what one at a time gives."""
    bytes: int = 0
    """Of its states."""


def ask(cache: Any, feed: Callable[[Any, int, int], torch.Tensor]) -> Continuing:
    """Find out how a model continues its states.

    Some models begin anew from an empty state when they are given more than one token. So the model is given the same
    tokens in both ways, and the difference is compared with that which an empty state makes.

    Args:
        cache: An empty cache of the model's.
        feed: Given a cache and two places among some tokens, feeds the tokens between them and returns their logits,
            shape (tokens, vocabulary).
    """
    feed(cache, 0, _PREFIX)
    states, held = [layer for layer in cache.layers if has_state(layer)], size(save(cache))
    if not all(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in states):
        return Continuing(in_cache=True, several=False, bytes=held)  # the state isn't known well enough to ask
    if not any(_tensors(vars(layer).values()) for layer in states):
        return Continuing(in_cache=False, several=False)

    def rows(*parts: int, empty: str = "") -> torch.Tensor:
        """The first row and the last, once the tokens after the prefix were fed in these parts."""
        work = copy.copy(cache)
        work.layers = [copied(layer) for layer in cache.layers]
        for layer in work.layers if empty else ():
            for held in _tensors(vars(layer).get(empty, {}).values()):
                held.zero_()
        ends = list(accumulate(parts, initial=_PREFIX))
        return torch.cat([feed(work, *between) for between in pairwise(ends)])[[0, -1]].float()

    one_by_one = rows(1, 1, 1)
    try:
        error = (rows(2, 1) - one_by_one).norm(dim=1)
    except RuntimeError:  # it has shapes for one token only
        return Continuing(in_cache=True, several=False, bytes=held)
    least = _NO_CHANGE * one_by_one[0].norm()
    for kind in _KINDS:
        if any(_tensors(vars(layer).get(kind, {}).values()) for layer in states):
            change = (rows(1, empty=kind) - one_by_one)[0].norm()
            if bool((error > _NEAR * torch.maximum(change, least)).any()):
                return Continuing(in_cache=True, several=False, bytes=held)
    return Continuing(in_cache=True, several=True, bytes=held)
