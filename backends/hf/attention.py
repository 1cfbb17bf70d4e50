"""Attention of a few rows over a long past, with query heads that share a key head folded into the rows.

The library repeats the cache for every query head, or takes a slow kernel. Folding reads the cache once, as it is. The
session makes the masks; `folded` switches the attention, and shows queries and keys to whoever asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

_NAME = "reasonctl_folded"
See = Callable[[int, torch.Tensor, torch.Tensor], None]
"""Called with a layer's number, its query (1, heads, rows, width) and its key (1, key heads, columns, width)."""
_SEE: ContextVar[See | None] = ContextVar("see", default=None)

MOST_ROWS = 128
"""Most rows that are folded. More are a prompt: the library's kernels are as good, and the mask would be large."""


@contextmanager
def switched(model: Any, name: str) -> Iterator[None]:
    """Use the attention registered under a name in every forward of this block."""
    config = model.config.get_text_config(decoder=True)
    before = config._attn_implementation
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = before


@contextmanager
def folded(model: Any, see: See | None = None) -> Iterator[None]:
    """Fold in every forward of this block; `see` is called with each layer's query and key."""
    token = _SEE.set(see or _SEE.get())
    try:
        with switched(model, _NAME):
            yield
    finally:
        _SEE.reset(token)


def groups(model: Any) -> int:
    """Query heads that share a key head."""
    config = model.config.get_text_config(decoder=True)
    heads = int(config.num_attention_heads)
    return heads // int(getattr(config, "num_key_value_heads", None) or heads)


def _attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as transformers calls it.

    Args:
        attention_mask: additive, its rows folded already: shape (1, 1, groups * rows, columns). None: every row sees
            everything.
    """
    see = _SEE.get()
    if see is not None:
        see(module.layer_idx, query, key)
    batch, heads, rows, width = query.shape
    folded_query = query.reshape(batch, key.shape[1], -1, width)
    biased = any(more.get(name) is not None for name in ("position_bias", "softcap"))
    # A prompt comes with the library's own mask, or without one and with many rows.
    folds = rows == 1 if attention_mask is None else attention_mask.shape[2] == folded_query.shape[2]
    if biased or not folds:
        first = None if attention_mask is None else attention_mask[:, :, :rows]
        found: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, first, scaling=scaling, **more
        )
        return found
    out = torch.nn.functional.scaled_dot_product_attention(
        folded_query, key, value, attn_mask=attention_mask, scale=scaling
    )
    return out.reshape(batch, heads, rows, -1).transpose(1, 2).contiguous(), None


AttentionInterface.register(_NAME, _attention)
AttentionMaskInterface.register(_NAME, sdpa_mask)
