"""The rows of one transformers forward, as the loop reads them: converted when they are asked for."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from reasonctl.controller import NO_DRAFT, ROOT, Capabilities, ControllerError, Decode, Draft
from reasonctl.controller.core.decode import Floats

from .attention import MOST_ROWS, folded

if TYPE_CHECKING:
    from .engine import HFEngine


class HFStep:
    """The rows of one forward: ROOT first, then the draft's nodes. Raises RuntimeError once stale."""

    __slots__ = ("_engine", "_forward", "_hidden", "_read", "_rows")

    def __init__(self, engine: HFEngine, rows: torch.Tensor, hidden: dict[int, torch.Tensor]) -> None:
        self._engine, self._forward, self._rows, self._hidden = engine, engine.forwards, rows, hidden
        self._read: dict[int, Floats] = {}

    def _check(self) -> None:
        if self._engine.forwards != self._forward:
            raise RuntimeError("stale Step: the engine has run another forward since; copy rows before it")

    def logits(self, node: int) -> Floats:
        """Shape (vocabulary,), float32."""
        self._check()
        # A walk visits few of a tree's rows: only those are converted, each once.
        if node not in self._read:
            self._read[node] = as_numpy(self._rows[node + 1])
        return self._read[node]

    def hidden(self, node: int, layer: int) -> Floats:
        """Shape (width,), float32. Raises ControllerError for a layer that the Decode did not ask for."""
        self._check()
        if layer not in self._hidden:
            raise ControllerError(f"layer {layer} was not captured; name it in Decode.layers: {sorted(self._hidden)}")
        row: Floats = as_numpy(self._hidden[layer][node + 1])
        return row


def as_numpy(tensor: torch.Tensor) -> Any:
    """float32 numpy; a view where the tensor already is that."""
    return tensor.float().cpu().numpy()


_SHARED_BY_FORKS = (DynamicLayer, DynamicSlidingWindowLayer)
"""Layers that grow by concatenation: nothing writes into tensors that a fork can see, so a fork copies no tensor."""


class HFSession:
    """One sequence: `length` committed tokens in the cache, then the rows of an unsettled draft."""

    def __init__(self, engine: HFEngine, cache: Any, length: int, device: torch.device) -> None:
        self.engine, self.cache, self.length, self.device = engine, cache, length, device
        self.left_out = 0  # of the first `length` columns: none, but in a sparse view
        self._draft = NO_DRAFT
        self._positions = torch.arange(0, device=device)

    @property
    def can(self) -> Capabilities:
        return self.engine.can

    def feed(self, request: Decode) -> HFStep:
        """Run one forward; see `Decode`."""
        pending, draft, engine = request.pending, request.draft, self.engine
        if not pending:
            raise ControllerError("a Decode needs at least one pending token")
        if draft.tokens:
            self._check_draft(draft)
        if self._draft.tokens:
            self.keep(())
        if engine.recurrent and self.length and len(pending) > 1:
            # Recurrent forwards continue a state one token at a time.
            for token in pending[:-1]:
                self._run([token], NO_DRAFT, ())
            pending = pending[-1:]
        return self._run([*pending, *draft.tokens], draft, request.layers)

    def _check_draft(self, draft: Draft) -> None:
        branches = self.can.branches
        if branches == 0 or (branches == 1 and not draft.is_chain()):
            raise ControllerError(f"this model's cache takes at most {branches} branches; give a smaller draft")

    def _run(self, tokens: list[int], draft: Draft, layers: tuple[int, ...]) -> HFStep:
        engine, start, size, rows = self.engine, self.length, len(tokens), 1 + len(draft.tokens)
        hidden: dict[int, torch.Tensor] = {}
        hooks = [self._hook(layer, rows, hidden) for layer in layers]
        engine.forwards += 1
        try:
            with torch.inference_mode(), self._attention(size):
                inputs: dict[str, Any] = {engine.cache_name: self.cache}
                if engine.takes_logits_to_keep:
                    inputs["logits_to_keep"] = rows
                if (size > 1 and self._folds(size)) or not draft.is_chain():
                    inputs["attention_mask"], inputs["position_ids"] = self._tree_inputs(draft, size)
                elif engine.takes_positions:
                    inputs["position_ids"] = self._range(start, start + size)
                ids = torch.tensor((tokens,), device=self.device)
                out = engine.model(input_ids=ids, use_cache=True, return_dict=True, **inputs)
        finally:
            for hook in hooks:
                hook.remove()
        self.length = start + size - len(draft.tokens)
        self._draft = draft
        logits = out.logits[0]
        return HFStep(engine, logits if logits.shape[0] == rows else logits[-rows:], hidden)

    def _folds(self, size: int) -> bool:
        """Whether query heads are folded into the rows: where there is a past, and no prompt is fed."""
        return self.length - self.left_out > 0 and self.engine.groups > 0 and size <= MOST_ROWS

    def _attention(self, size: int) -> AbstractContextManager[None]:
        return folded(self.engine.model) if self._folds(size) else nullcontext()

    def _range(self, start: int, end: int) -> torch.Tensor:
        """Shape (1, end - start): positions, sliced from a table that doubles."""
        if self._positions.shape[0] < end:
            self._positions = torch.arange(max(256, 2 * end), device=self.device)
        return self._positions[start:end][None]

    def _tree_inputs(self, draft: Draft, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(additive mask, positions (1, size)): a node sees its ancestors only.

        The mask's shape is (1, 1, size, length + size), its rows once for every group where heads are folded.
        """
        count, dtype = len(draft.tokens), self.engine.model.dtype
        past = self.length - self.left_out
        seen = torch.ones(size, past + size, dtype=torch.bool).tril_(past)
        below = seen[size - count :, past + size - count :]
        below[:] = torch.eye(count, dtype=torch.bool)
        for node, parent in enumerate(draft.parents):
            if parent != ROOT:
                below[node] |= below[parent]
        mask = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)
        end = self.length + size - count
        positions = [*range(self.length, end), *(end + depth for depth in draft.depths())]
        if self._folds(size):
            mask = mask.repeat(self.engine.groups, 1)
        return mask[None, None].to(self.device), torch.tensor((positions,), device=self.device)

    def _hook(self, layer: int, rows: int, hidden: dict[int, torch.Tensor]) -> Any:
        blocks = self.engine.blocks
        if not 0 <= layer < len(blocks):
            raise ControllerError(f"layer {layer} was asked for; this model has {len(blocks)} readable blocks (from 0)")

        def capture(module: Any, args: Any, output: Any) -> None:
            state = output[0] if isinstance(output, tuple) else output
            hidden[layer] = state[0, -rows:].clone()

        return blocks[layer].register_forward_hook(capture)

    def keep(self, path: Sequence[int]) -> None:
        """Commit a path of the last draft. Raises ControllerError if it does not start at the root."""
        draft = self._draft
        if not path and not draft.tokens:
            return
        draft.check_path(path)
        if any(node != i for i, node in enumerate(path)):
            self._gather(path)
        self._crop(len(draft.tokens) - len(path))
        self.length += len(path)
        self._draft = NO_DRAFT

    def _gather(self, path: Sequence[int]) -> None:
        """Move the path's columns to the draft's front, in place: no fork has the tensors of the last forward."""
        with torch.inference_mode():
            end = self.length - self.left_out
            columns = torch.tensor(path, device=self.device) + end
            for layer in self.cache.layers:
                here = columns.to(layer.keys.device)
                for states in (layer.keys, layer.values):
                    states[..., end : end + len(path), :] = states[..., here, :]

    def _crop(self, n: int) -> None:
        if n == 0:
            return
        with torch.inference_mode():
            for layer in self.cache.layers:
                if isinstance(layer, DynamicSlidingWindowLayer) and layer.is_initialized:
                    # Its own crop would drop the recorded past, and the next rollback with it.
                    layer.keys, layer.values = layer.keys[..., :-n, :], layer.values[..., :-n, :]
                    layer.cumulative_length -= n
                else:
                    layer.crop(-n)

    def rollback(self, n: int) -> None:
        """Forget n tokens. Raises ControllerError for more than there are, or on a recurrent cache."""
        if not 0 <= n <= self.length:
            raise ControllerError(f"can't roll back {n} of {self.length} tokens")
        if n and self.engine.recurrent:
            raise ControllerError(f"can't roll back {n} tokens: this model's cache is recurrent; decode without exits")
        self.keep(())
        self._crop(n)
        self.length -= n

    def fork(self) -> HFSession:
        """An independent sequence; attention layers share their tensors with it until either one grows."""
        if self._draft.tokens:
            raise ControllerError("fork after keep: a draft's rows are not committed")
        cache = copy.copy(self.cache)
        with torch.inference_mode():
            cache.layers = [
                copy.copy(layer) if type(layer) in _SHARED_BY_FORKS else copy.deepcopy(layer)
                for layer in self.cache.layers
            ]
        return HFSession(self.engine, cache, self.length, self.device)

    def sparse(self, budget: int, chunk: int) -> HFSession:
        """A view that reads `budget` tokens of the past; see `hf_sparse`."""
        from .sparse import SparseSession

        return SparseSession(self, budget, chunk)

    def close(self) -> None:
        """Drop the cache's tensors."""
        self.cache, self.length, self._draft = None, 0, NO_DRAFT
