"""A view of a sequence that reads a part of its cache: chunks of keys, chosen per layer and head by a row's query.

The retrieval cache of TriForce (Sun et al. 2024, section 4.1), for attention over whole DynamicCaches.
"""

from __future__ import annotations

import copy

import torch

from reasonctl.controller import ControllerError, Draft

from .attention import folded
from .session import HFSession, HFStep


class SparseSession(HFSession):
    """A session whose first row sees everything and chooses what stays: `budget` tokens, and what is fed later.

    The first chunk and an unfinished last one always stay. Positions are those of the whole sequence.
    """

    def __init__(self, whole: HFSession, budget: int, chunk: int) -> None:
        super().__init__(whole.engine, None, 0, whole.device)
        self.whole, self.budget, self.chunk = whole, budget, chunk
        self.renew()

    def renew(self) -> None:
        """The tokens that the whole sequence holds now; the next row sees them all and chooses anew."""
        fork = self.whole.fork()
        self.cache, self.length, self.left_out, self._draft = fork.cache, fork.length, 0, Draft()
        self.least, self._chosen = 0, False

    def _run(self, tokens: list[int], draft: Draft, layers: tuple[int, ...]) -> HFStep:
        if self._chosen:
            return super()._run(tokens, draft, layers)
        before, row = self.length, -1 - len(draft.tokens)
        columns: dict[int, torch.Tensor] = {}

        def see(layer: int, query: torch.Tensor, key: torch.Tensor) -> None:
            columns[layer] = choose(query[0, :, row], key[0, :, :before], self.budget, self.chunk)

        with folded(self.engine.model, see):
            step = super()._run(tokens, draft, layers)
        self._leave_out(columns, before)
        return step

    def _leave_out(self, columns: dict[int, torch.Tensor], before: int) -> None:
        """Keep the chosen columns (heads, kept) of the first `before` ones, and all behind them."""
        with torch.inference_mode():
            for i, layer in enumerate(self.cache.layers):
                rows = columns[i][None, :, :, None].expand(-1, -1, -1, layer.keys.shape[-1])
                layer.keys = torch.cat([layer.keys.gather(-2, rows), layer.keys[..., before:, :]], dim=-2)
                rows = columns[i][None, :, :, None].expand(-1, -1, -1, layer.values.shape[-1])
                layer.values = torch.cat([layer.values.gather(-2, rows), layer.values[..., before:, :]], dim=-2)
        self.left_out = before - columns[0].shape[-1]
        self.least, self._chosen = before, True

    def rollback(self, n: int) -> None:
        """Forget n tokens. Raises ControllerError for more than were fed since the choice."""
        if self._chosen and self.length - n < self.least:
            raise ControllerError(f"can't roll back {n} tokens: this view chose its part at {self.least}; renew it")
        super().rollback(n)

    def fork(self) -> SparseSession:
        """An independent view with the same part."""
        made = copy.copy(self)
        made.cache = super().fork().cache
        return made


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
