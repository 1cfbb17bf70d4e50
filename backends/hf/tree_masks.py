"""Which rows the nodes of a draft see."""

from __future__ import annotations

import torch

from reasonctl.controller import ROOT, Draft


def ancestors(draft: Draft) -> torch.Tensor:
    """Shape (nodes, nodes): which nodes each node sees, itself included."""
    below = torch.eye(len(draft.tokens), dtype=torch.bool)
    for node, parent in enumerate(draft.parents):
        if parent != ROOT:
            below[node] |= below[parent]
    return below


def tree_mask(draft: Draft, size: int, past: int, dtype: torch.dtype) -> torch.Tensor:
    """Additive mask of the last `size` rows, shape (size, past + size): a node sees its ancestors only."""
    count = len(draft.tokens)
    seen = torch.ones(size, past + size, dtype=torch.bool).tril_(past)
    seen[size - count :, past + size - count :] = ancestors(draft)
    return torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)
