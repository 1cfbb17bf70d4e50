"""Which columns of a cache a sparse view keeps: chunks of keys, chosen per layer and head by a row's query.

The retrieval cache of TriForce (Sun et al. 2024, section 4.1), for attention over whole DynamicCaches.
"""

from __future__ import annotations

import torch


def choose(query: torch.Tensor, keys: torch.Tensor, budget: int, chunk: int) -> torch.Tensor:
    """Columns to keep, shape (key heads, kept), ascending: chunk 0, the best others by query . mean key, the tail.

    query: shape (heads, width); heads that share a key head are averaged. keys: shape (key heads, columns, width).
    kept is `budget` rounded down to whole chunks, plus the columns behind the last whole chunk; all where they fit.
    """
    heads, columns, width = keys.shape
    count, wanted = columns // chunk, budget // chunk
    everything = torch.arange(columns, device=keys.device).expand(heads, -1)
    if count <= wanted:
        return everything
    means = keys[:, : count * chunk].reshape(heads, count, chunk, width).mean(2)
    scores = torch.einsum("hcw,hw->hc", means, query.reshape(heads, -1, width).mean(1))
    best = scores[:, 1:].topk(wanted - 1, dim=1).indices + 1
    chunks = torch.cat([torch.zeros_like(best[:, :1]), best], dim=1).sort(dim=1).values
    inside = (chunks[..., None] * chunk + torch.arange(chunk, device=keys.device)).flatten(1)
    return torch.cat([inside, everything[:, count * chunk :]], dim=1)


def keep_columns(states: torch.Tensor, columns: torch.Tensor, before: int) -> torch.Tensor:
    """Keys or values with the chosen ones of the first `before` columns, and all columns after them.

    states: shape (1, key heads, columns, width). columns: shape (key heads, kept), as `choose` gives them.
    """
    chosen = columns[None, :, :, None].expand(-1, -1, -1, states.shape[-1])
    return torch.cat([states.gather(-2, chosen), states[..., before:, :]], dim=-2)
