"""transformers as an engine: one sequence per session, in a DynamicCache that can branch, roll back and fork.

Owns the forward pass and the cache edits; knows no text and no generate call.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from reasonctl.controller import NO_DRAFT, ROOT, Capabilities, ControllerError, Decode, Draft

from .hf_attention import MOST_ROWS, folded, groups
from .hf_step import HFStep

_CACHE_NAMES = ("past_key_values", "cache_params")
"""What forward() calls its cache: attention models, state-space models."""

_SHARED_BY_FORKS = (DynamicLayer, DynamicSlidingWindowLayer)
"""Layers that grow by concatenation: nothing writes into tensors that a fork can see, so a fork copies no tensor."""


class HFEngine:
    """One transformers causal language model; one request per forward.

    Device and dtype are the model's own, read when a session opens.
    """

    batch = 1

    def __init__(self, model: Any) -> None:
        if model.config.is_encoder_decoder:
            raise ControllerError(f"{type(model).__name__} is an encoder-decoder; give a decoder-only model")
        names = inspect.signature(type(model).forward).parameters
        found = [name for name in _CACHE_NAMES if name in names]
        if not found or not type(model)._supports_default_dynamic_cache():
            raise ControllerError(f"{type(model).__name__} keeps a cache of its own kind; a DynamicCache is needed")
        self.model = model
        self.forwards = 0
        self.cache_name = found[0]
        self.takes_positions = "position_ids" in names
        self.takes_logits_to_keep = "logits_to_keep" in names
        self.blocks = find_blocks(model)
        layers = self.new_cache().layers
        self.recurrent = any(hasattr(layer, "recurrent_states") or not layer.is_croppable for layer in layers)
        self.can = self._capabilities(layers)
        self.groups = groups(model) if self.can.sparse else 0

    def _capabilities(self, layers: Sequence[Any]) -> Capabilities:
        output = self.model.get_output_embeddings()
        config = self.model.config.get_text_config(decoder=True)
        vocabulary = config.vocab_size if output is None else len(output.weight)
        # A tree needs a 4D mask that the attention respects, explicit positions, and whole columns to gather.
        attention = getattr(self.model.config, "_attn_implementation", None) in ("sdpa", "eager")
        tree = self.takes_positions and attention and all(type(layer) is DynamicLayer for layer in layers)
        shows_queries = config._attn_implementation == "sdpa" and type(self.model).is_backend_compatible()
        return Capabilities(
            rollback=not self.recurrent,
            branches=0 if self.recurrent else 1 << 30 if tree else 1,
            fork=True,
            layers=len(self.blocks),
            vocabulary=vocabulary,
            sparse=tree and shows_queries,
        )

    @property
    def identity(self) -> str:
        """What a forward's cost depends on, besides the machine."""
        model, attention = self.model, getattr(self.model.config, "_attn_implementation", None)
        shape = f"{type(model).__name__} {model.num_parameters()} {model.dtype} {model.device} {attention}"
        return f"transformers {shape} threads {torch.get_num_threads()}"

    def new_cache(self) -> Any:
        """An empty cache; sliding layers keep their past, because a rollback may need it again."""
        cache = DynamicCache(config=self.model.config)
        for layer in cache.layers:
            if isinstance(layer, DynamicSlidingWindowLayer):
                layer.activate_past_recording()
        return cache

    def session(self) -> HFSession:
        """An empty sequence."""
        return HFSession(self, self.new_cache(), 0, self.model.device)

    def forward(self, requests: Sequence[Decode]) -> list[HFStep]:
        """One forward for one request. Raises ControllerError for more, or for another engine's session."""
        if len(requests) != 1:
            raise ControllerError(f"one forward takes 1 request here, not {len(requests)}; drive the loops in turn")
        session = requests[0].session
        if not isinstance(session, HFSession) or session.engine is not self:
            raise ControllerError("this session belongs to another engine; decode it there")
        return [session.feed(requests[0])]


def find_blocks(model: Any) -> Sequence[torch.nn.Module]:
    """The decoder's blocks in order: its first ModuleList as long as the configuration is deep; () if there is none."""
    depth = getattr(model.config.get_text_config(decoder=True), "num_hidden_layers", None)
    for module in model.get_decoder().modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == depth:
            return tuple(module)
    return ()


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
        parent = ROOT
        for node in path:
            if not 0 <= node < len(draft.tokens) or draft.parents[node] != parent:
                raise ControllerError(f"{list(path)} is no path from the draft's root")
            parent = node
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
        from .hf_sparse import SparseSession

        return SparseSession(self, budget, chunk)

    def close(self) -> None:
        """Drop the cache's tensors."""
        self.cache, self.length, self._draft = None, 0, NO_DRAFT
