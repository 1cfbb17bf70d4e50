"""One transformers model's forward: its argument names, its blocks, and the rows that it gives.

Everything that a session must know of the model is here. Caches are the session's: it makes them with `new_cache`.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from reasonctl.controller import Capabilities, ControllerError, Step
from reasonctl.controller.core import UNLIMITED, Floats

from .attention import groups
from .packed import why_not
from .states import MOST_ASKED, Continuing, ask, has_state, record_windows

_CACHE_NAMES = ("past_key_values", "cache_params")
"""What forward() calls its cache: attention models, state-space models."""


class ModelForward:
    """A causal language model as its sessions call it."""

    def __init__(self, model: Any, folds_plain_rows: bool) -> None:
        """Read what the model can do. Raises ControllerError for one that keeps no DynamicCache.

        Args:
            model: a causal language model of transformers.
            folds_plain_rows: fold query heads without a draft too.
        """
        if model.config.is_encoder_decoder:
            raise ControllerError(f"{type(model).__name__} is an encoder-decoder; give a decoder-only model")
        names = inspect.signature(type(model).forward).parameters
        found = [name for name in _CACHE_NAMES if name in names]
        if not found or not type(model)._supports_default_dynamic_cache():
            raise ControllerError(f"{type(model).__name__} keeps a cache of its own kind; a DynamicCache is needed")
        self.model = model
        self._config = model.config.get_text_config(decoder=True)
        self.count = 0
        """Forwards so far; a Step of an older one is stale."""
        self.cache_name = found[0]
        self.takes_positions = "position_ids" in names
        self._takes_logits_to_keep = "logits_to_keep" in names
        self._blocks = find_blocks(model)
        layers = self.new_cache().layers
        self.recurrent = any(has_state(layer) for layer in layers)
        """The cache holds a state that takes no token back."""
        self.continues_several = not self.recurrent or self._ask().several
        """Several tokens at once continue the cache exactly; elsewhere a state takes them one at a time."""
        self.in_turn = why_not(model, layers, self.takes_positions)
        """Why requests can't share a forward; "" where they can."""
        self.can = self._capabilities(layers)
        self.groups = groups(model) if self.can.sparse else 0
        """Query heads that share a key head; 0 where they can't be folded into rows (`attention.py`)."""
        self.folds_plain_rows = folds_plain_rows
        """Rows without a draft fold their query heads too: faster over long contexts, not the library's rounding."""

    def _capabilities(self, layers: Sequence[Any]) -> Capabilities:
        # A tree needs a 4D mask that the attention respects, explicit positions, and whole columns to gather.
        attention = getattr(self.model.config, "_attn_implementation", None) in ("sdpa", "eager")
        tree = self.takes_positions and attention and all(type(layer) is DynamicLayer for layer in layers)
        branches = UNLIMITED if tree else 1
        shows_queries = self._config._attn_implementation == "sdpa" and type(self.model).is_backend_compatible()
        return Capabilities(
            rollback=True,
            branches=branches if self.continues_several else 0,
            fork=True,
            layers=len(self._blocks),
            vocabulary=self._vocabulary(),
            sparse=tree and shows_queries,
            checkpoints=self.recurrent,
        )

    def _ask(self) -> Continuing:
        """How the model continues the states of its cache; raises ControllerError where they aren't in it."""
        tokens = torch.arange(1, 1 + MOST_ASKED, device=self.device)[None] % self._vocabulary()

        def feed(cache: Any, start: int, end: int) -> torch.Tensor:
            more = {"position_ids": torch.arange(start, end, device=self.device)[None]} if self.takes_positions else {}
            return self.run(tokens[:, start:end], cache, end - start, (), more).logits

        with torch.inference_mode():
            found = ask(self.new_cache(), feed)
        if not found.in_cache:
            raise ControllerError(
                f"{type(self.model).__name__} keeps states in its modules, where all sequences share them; "
                "a model that keeps them in a DynamicCache is needed"
            )
        return found

    def _vocabulary(self) -> int:
        """Number of logits. A quantised output layer packs its weight, or has none that can be read."""
        output = self.model.get_output_embeddings()
        size = getattr(output, "out_features", None)
        if isinstance(size, int):
            return size
        weight = getattr(output, "weight", None)
        return len(weight) if torch.is_tensor(weight) else int(self._config.vocab_size)

    @property
    def device(self) -> torch.device:
        """Where inputs go: the model's device now; the CPU for an offloaded model, whose own hooks move inputs on."""
        device: torch.device = self.model.device
        return torch.device("cpu") if device.type == "meta" else device

    def new_cache(self) -> Any:
        """An empty cache; sliding layers keep their past, because a rollback may need it again."""
        cache = DynamicCache(config=self.model.config)
        record_windows(cache)
        return cache

    def check_layers(self, layers: Sequence[int]) -> None:
        """Raises ControllerError for a layer that there isn't."""
        blocks = len(self._blocks)
        for layer in layers:
            if not 0 <= layer < blocks:
                raise ControllerError(f"layer {layer} was asked for; this model has {blocks} readable blocks (from 0)")

    def begin(self) -> None:
        """An engine's forward begins: Steps of the one before become stale."""
        self.count += 1

    def run(
        self, ids: torch.Tensor, cache: Any, rows: int | torch.Tensor, layers: Sequence[int], more: dict[str, Any]
    ) -> Rows:
        """Call the model.

        Args:
            ids: tokens, shape (1, size).
            cache: the past; it grows by `size` tokens.
            rows: the rows to give: a number of last ones, or their places, on the CPU.
            layers: blocks whose output is captured at these rows; see `check_layers`.
            more: further arguments of the model's forward, such as a mask and positions.
        """
        wanted: Any = slice(-rows, None) if isinstance(rows, int) else rows
        hidden: dict[int, torch.Tensor] = {}
        hooks = [self._capture(layer, wanted, hidden) for layer in layers]
        if self._takes_logits_to_keep:
            more["logits_to_keep"] = rows
        more[self.cache_name] = cache
        try:
            out = self.model(input_ids=ids, use_cache=True, return_dict=True, **more)
        finally:
            for hook in hooks:
                hook.remove()
        logits, count = out.logits[0], rows if isinstance(rows, int) else len(rows)
        return Rows(logits if logits.shape[0] == count else logits[wanted], hidden)

    def _capture(self, layer: int, wanted: Any, hidden: dict[int, torch.Tensor]) -> Any:
        def capture(module: Any, args: Any, output: Any) -> None:
            state = output[0] if isinstance(output, tuple) else output
            hidden[layer] = state[0, wanted].clone()

        return self._blocks[layer].register_forward_hook(capture)


class Rows(NamedTuple):
    """Rows of one call of the model."""

    logits: torch.Tensor
    """Shape (rows, vocabulary)."""
    hidden: dict[int, torch.Tensor]
    """Shape (rows, width), by layer."""

    def part(self, start: int, count: int, layers: Sequence[int]) -> Rows:
        """Some of them, with some of the layers."""
        end = start + count
        return Rows(self.logits[start:end], {layer: self.hidden[layer][start:end] for layer in layers})


class HFStep(Step):
    """The rows of one forward: ROOT first, then the draft's nodes. Raises RuntimeError once stale."""

    __slots__ = ("_count", "_forward", "_hidden", "_read", "_rows")

    def __init__(self, forward: ModelForward, rows: Rows) -> None:
        """`rows`: the last pending token's and the draft's."""
        self._forward = forward
        self._count = forward.count
        self._rows = rows.logits
        self._hidden = rows.hidden
        self._read: dict[int, Floats] = {}

    def _check(self) -> None:
        if self._forward.count != self._count:
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


def find_blocks(model: Any) -> Sequence[torch.nn.Module]:
    """The decoder's blocks in order: its first ModuleList as long as the configuration is deep; () if there is none."""
    depth = getattr(model.config.get_text_config(decoder=True), "num_hidden_layers", None)
    for module in model.get_decoder().modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == depth:
            return tuple(module)
    return ()
