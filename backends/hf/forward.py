"""One transformers model's forward: its argument names, its blocks, and the rows that it gives.

Everything that a session must know of the model is here. Caches are the session's: it makes them with `new_cache`.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer
from transformers.modeling_layers import GradientCheckpointingLayer

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
        names = inspect.signature(type(model).forward).parameters
        self.model = model
        self._config = model.config.get_text_config(decoder=True)
        self.count = 0
        """Forwards so far; a Step of an older one is stale."""
        self.cache_name = _cache_name(model, names)
        self.takes_positions = "position_ids" in names
        if not self.takes_positions and not _takes_one_token(model):
            raise ControllerError(
                f"{type(model).__name__} reads the whole text at every step, not the new tokens alone"
            )
        self._takes_logits_to_keep = "logits_to_keep" in names
        self._blocks = find_blocks(model)
        layers = self.new_cache().layers
        self.recurrent = any(has_state(layer) for layer in layers)
        """The cache holds a state that takes no token back."""
        asked = self._ask() if self.recurrent else Continuing(in_cache=True, several=True)
        self.continues_several = asked.several
        """Several tokens at once continue the cache exactly; elsewhere a state takes them one at a time."""
        self.windowed = frozenset(i for i, layer in enumerate(layers) if isinstance(layer, DynamicSlidingWindowLayer))
        """Layers that see a window."""
        self.state_bytes = asked.bytes
        """Bytes of the states of one sequence; windows that hold them too grow with the text, up to their size."""
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
            return self.run(tokens[:, start:end], cache, end - start, (), more).tensor

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
            more: further arguments of the model's forward, such as a mask and positions. With `inputs_embeds`
                the ids aren't read.
        """
        wanted: Any = slice(-rows, None) if isinstance(rows, int) else rows
        hidden: dict[int, torch.Tensor] = {}
        hooks = [self._capture(layer, wanted, hidden) for layer in layers]
        if self._takes_logits_to_keep:
            more["logits_to_keep"] = rows
        more[self.cache_name] = cache
        try:
            if "inputs_embeds" not in more:
                more["input_ids"] = ids
            out = self.model(use_cache=True, return_dict=True, **more)
        finally:
            for hook in hooks:
                hook.remove()
        logits, count = out.logits[0], rows if isinstance(rows, int) else len(rows)
        return Rows(logits if logits.shape[0] == count else logits[wanted], hidden)

    def _capture(self, layer: int, wanted: Any, hidden: dict[int, torch.Tensor]) -> Any:
        def capture(module: Any, args: Any, output: Any) -> None:
            state = output[0] if isinstance(output, tuple) else output
            hidden[layer] = self._one_stream(state)[0, wanted].clone()

        return self._blocks[layer].register_forward_hook(capture)

    def _one_stream(self, state: torch.Tensor) -> torch.Tensor:
        """A block's output with one state a token, shape (1, size, width), where blocks hand on several streams.

        AltUp predicts all streams and computes one of them, which is taken (Gemma 3n, shape (streams, 1, size, width)).
        Hyper-connections mix equal streams, whose mean is taken (DeepSeek V4, shape (1, size, streams, width)).
        """
        if state.ndim != 4:
            return state
        if state.shape[0] == 1:
            return state.mean(dim=2)
        return state[self.model.config.get_text_config(decoder=True).altup_active_idx]


@dataclass
class Rows:
    """Rows of one call of the model, for one request or for many."""

    tensor: torch.Tensor
    """Logits, shape (rows, vocabulary)."""
    states: dict[int, torch.Tensor]
    """Shape (rows, width), by layer."""
    _read: dict[int, Floats] = field(default_factory=dict)

    def read_all(self) -> None:
        """Convert all logits at once, where all of them will be read."""
        self._read = dict(enumerate(as_numpy(self.tensor)))

    def logits(self, row: int) -> Floats:
        """Shape (vocabulary,), float32."""
        # A walk visits few of a tree's rows: only those are converted, each once.
        if row not in self._read:
            self._read[row] = as_numpy(self.tensor[row])
        return self._read[row]


class HFStep(Step):
    """The rows of one request: ROOT first, then the draft's nodes. Raises RuntimeError once stale."""

    __slots__ = ("_count", "_first", "_forward", "_layers", "_rows")

    def __init__(self, forward: ModelForward, rows: Rows, layers: Sequence[int], first: int = 0) -> None:
        """Take a request's rows.

        Args:
            forward: whose last call gave them.
            rows: all rows of that call.
            layers: blocks whose output the request asked for.
            first: the row of its last pending token.
        """
        self._forward = forward
        self._count = forward.count
        self._rows = rows
        self._layers = layers
        self._first = first + 1

    def _check(self) -> None:
        if self._forward.count != self._count:
            raise RuntimeError("stale Step: the engine has run another forward since; copy rows before it")

    def logits(self, node: int) -> Floats:
        """Shape (vocabulary,), float32."""
        self._check()
        return self._rows.logits(self._first + node)

    def hidden(self, node: int, layer: int) -> Floats:
        """Shape (width,), float32. Raises ControllerError for a layer that the Decode did not ask for."""
        self._check()
        if layer not in self._layers:
            raise ControllerError(f"layer {layer} was not captured; name it in Decode.layers: {sorted(self._layers)}")
        row: Floats = as_numpy(self._rows.states[layer][self._first + node])
        return row


def as_numpy(tensor: torch.Tensor) -> Any:
    """float32 numpy; a view where the tensor already is that."""
    return tensor.float().cpu().numpy()


def _lists(module: torch.nn.Module, kind: type) -> Iterator[torch.nn.ModuleList]:
    """ModuleLists in order, without those of models inside with another kind of configuration: encoders of pictures."""
    if isinstance(module, torch.nn.ModuleList):
        yield module
    for child in module.children():
        if not isinstance(child, PreTrainedModel) or type(child.config) is kind:
            yield from _lists(child, kind)


def _cache_name(model: Any, names: Collection[str]) -> str:
    """What forward() calls its cache, of the names of its arguments.

    Raises:
        ControllerError: the model keeps no DynamicCache.
    """
    if model.config.is_encoder_decoder:
        raise ControllerError(f"{type(model).__name__} is an encoder-decoder; give a decoder-only model")
    found = [name for name in _CACHE_NAMES if name in names]
    if not found or not type(model)._supports_default_dynamic_cache():
        raise ControllerError(f"{type(model).__name__} keeps a cache of its own kind; a DynamicCache is needed")
    return found[0]


def _takes_one_token(model: Any) -> bool:
    """Whether generate() would give the model the new token of a text alone, once it has a cache."""
    ids = torch.zeros((1, 2), dtype=torch.long)
    given = model.prepare_inputs_for_generation(ids, next_sequence_length=1, use_cache=True)
    return int(given["input_ids"].shape[1]) == 1


def find_blocks(model: Any) -> Sequence[torch.nn.Module]:
    """The decoder's blocks in order; () if there are none.

    Its first ModuleList as long as the configuration is deep. Some count layers of their cache instead, several to a
    block: then its last list of the library's blocks, which gives the model's output.
    """
    found = model.get_decoder()
    decoder = found if isinstance(found, PreTrainedModel) else model  # some call their output layer so
    depth = getattr(model.config.get_text_config(decoder=True), "num_hidden_layers", None)
    lists = list(_lists(decoder, type(decoder.config)))
    of_blocks = [one for one in lists if len(one) and isinstance(one[0], GradientCheckpointingLayer)]
    for blocks in [*(one for one in lists if len(one) == depth), *reversed(of_blocks)]:
        return tuple(blocks)
    return ()
