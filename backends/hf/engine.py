"""transformers as an engine: one sequence per session, in a DynamicCache that can branch, roll back and fork.

Owns the forward pass and the cache edits; knows no text and no generate call.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from reasonctl.controller import Capabilities, ControllerError, Decode

from .attention import groups
from .session import HFSession, HFStep

_CACHE_NAMES = ("past_key_values", "cache_params")
"""What forward() calls its cache: attention models, state-space models."""


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
