"""One forward for many sessions: their rows are one sequence for the model, and only attention tells them apart.

Linear layers run once over the rows of all requests, without padding. Attention is ours (`Places`, `Packing`): new
keys and values go to each sequence's slot of a slab, and rows see their own slot only.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from reasonctl.controller import NO_DRAFT, Draft

from .attention import switched
from .slab import LayerSlab, Slab, Slot
from .tree_masks import ancestors

_NAME = "reasonctl_packed"
"""Has no mask function, so that the library makes no masks for it."""

FEW = 32
"""Most rows of a sequence that may share a padded attention call; more are a prompt."""

_WASTE = 2
"""A padded attention call has at most so many times the rows that are wanted."""

MOST_SEEN = 1 << 23
"""Most entries of a mask, 32 MB in float32; rows that need a larger one are attended to in several calls."""

_NO_MATTER = {
    "position_ids",
    "cache_position",
    "use_cache",
    "is_causal",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
}
"""Arguments of an attention call that change nothing here."""


class CantPack(Exception):
    """The model's attention does something that is not honoured here; the message says what."""


@dataclass(eq=False)
class Part:
    """The rows of one request."""

    slot: Slot
    past: int
    """Columns of the slot before these rows."""
    tokens: list[int]
    """Pending tokens, then the draft's."""
    draft: Draft

    @property
    def columns(self) -> range:
        """Where the rows' keys go in the slot."""
        return range(self.past, self.past + len(self.tokens))

    @property
    def positions(self) -> Sequence[int]:
        """A node's position is its depth after the last pending token."""
        if not self.draft.tokens:
            return self.columns
        end = self.past + len(self.tokens) - len(self.draft.tokens)
        return [*range(self.past, end), *(end + depth for depth in self.draft.depths())]


class Scoring(NamedTuple):
    """How a layer scores, as the call of its attention says."""

    scaling: float | None
    window: int | None
    softcap: float | None
    sinks: torch.Tensor | None


@dataclass
class Group:
    """Sequences in neighbouring slots whose attention is one call, padded to the most rows of any."""

    parts: list[Part]
    """By slot."""
    first: int
    """Row of the packed sequence, or of the group that it is a half of, at which the group begins."""
    half: bool = False
    """It is a part of a group; those make their masks in every layer anew, as all of them take too much memory."""
    low: int = field(init=False)
    """Its first slot."""
    slots: int = field(init=False)
    height: int = field(init=False)
    """Rows of each slot, padding included."""
    end: int = field(init=False)
    """Columns that any row sees."""
    rows: int = field(init=False)
    """Without padding."""

    def __post_init__(self) -> None:
        self.low = self.parts[0].slot.index
        self.slots = self.parts[-1].slot.index + 1 - self.low
        self.height = max(len(part.tokens) for part in self.parts)
        self.end = max(part.past + len(part.tokens) for part in self.parts)
        self.rows = sum(len(part.tokens) for part in self.parts)
        self._masks: dict[tuple[Any, ...], torch.Tensor] = {}
        self._places: dict[torch.device, torch.Tensor] = {}

    @property
    def padded(self) -> bool:
        """Some slot has fewer rows than another."""
        return self.rows < self.slots * self.height

    @property
    def dense(self) -> bool:
        """Padding wastes little."""
        return self.slots * self.height <= _WASTE * self.rows

    def causal(self, scoring: Scoring) -> bool:
        """One prompt with nothing before it: the library's kernels need no mask."""
        (part, *others) = self.parts
        plain = scoring.softcap is None and scoring.sinks is None
        alone = not others and not part.past and not part.draft.tokens
        return plain and alone and (scoring.window is None or self.rows <= scoring.window)

    def attend(self, query: torch.Tensor, layer: LayerSlab, scoring: Scoring) -> torch.Tensor:
        """Attention of the group's rows, shape (rows, heads, width), over their own slots."""
        rows, heads, width = query.shape
        kinds = layer.keys.shape[0]
        keys, values = (states[:, self.low : self.low + self.slots, : self.end].transpose(0, 1) for states in layer)
        if self.causal(scoring):
            out = scaled_dot_product_attention(
                query.transpose(0, 1)[None],
                keys,
                values,
                is_causal=rows > 1,
                scale=scoring.scaling,
                enable_gqa=heads != kinds,
            )
            return out[0].transpose(0, 1)
        if (halves := self._halves(heads // kinds)) is not None:
            rows_of = (query[half.first : half.first + half.rows] for half in halves)
            return torch.cat([half.attend(own, layer, scoring) for half, own in zip(halves, rows_of, strict=True)])
        if self.padded:
            given = query
            query = given.new_zeros((self.slots * self.height, heads, width))
            query.index_copy_(0, self._place(given.device), given)
        # Query heads that share a key head become rows of it.
        query = query.reshape(self.slots, self.height, kinds, -1, width).permute(0, 2, 3, 1, 4).flatten(2, 3)
        out = _attend(query, keys, values, self._mask(scoring.window, query, heads // kinds), scoring)
        out = out.reshape(self.slots, kinds, heads // kinds, self.height, -1)
        out = out.permute(0, 3, 1, 2, 4).reshape(self.slots * self.height, heads, -1)
        return out.index_select(0, self._place(out.device)) if self.padded else out

    def _halves(self, fold: int) -> tuple[Group, Group] | None:
        """Two groups with the rows of this one, where its mask would be too large; None where it isn't."""
        if self.slots * self.height * fold * self.end <= MOST_SEEN:
            return None
        if len(self.parts) > 1:
            middle = len(self.parts) // 2
            first, last = self.parts[:middle], self.parts[middle:]
        else:
            (part,) = self.parts
            middle = min(self.rows // 2, self.rows - len(part.draft.tokens))  # a draft stays whole
            if not middle:
                return None
            first = [Part(part.slot, part.past, part.tokens[:middle], NO_DRAFT)]
            last = [Part(part.slot, part.past + middle, part.tokens[middle:], part.draft)]
        begin = sum(len(part.tokens) for part in first)
        return Group(first, 0, half=True), Group(last, begin, half=True)

    def _place(self, device: torch.device) -> torch.Tensor:
        """Where each row is among the padded ones."""
        if device not in self._places:
            places = [
                (part.slot.index - self.low) * self.height + i for part in self.parts for i in range(len(part.tokens))
            ]
            self._places[device] = torch.tensor(places, device=device)
        return self._places[device]

    def _mask(self, window: int | None, like: torch.Tensor, fold: int) -> torch.Tensor:
        """Additive: shape (slots, 1, height, end), its rows once for every folded head unless there is one row."""
        key = window, like.dtype, like.device, fold
        if key not in self._masks:
            seen = self._seen(window)
            mask = torch.zeros(seen.shape, dtype=like.dtype).masked_fill_(~seen, torch.finfo(like.dtype).min)
            mask = mask.repeat(1, fold, 1) if self.height > 1 else mask
            mask = mask[:, None].to(like.device)
            if self.half:
                return mask
            self._masks[key] = mask
        return self._masks[key]

    def _seen(self, window: int | None) -> torch.Tensor:
        """Which columns each padded row sees; a row of padding sees the first one."""
        every = torch.arange(self.end)
        seen = every <= self._padded([part.columns for part in self.parts])
        if window is not None:
            seen &= every > self._padded([part.positions for part in self.parts]) - window
        for part in self.parts:
            if part.draft.tokens:
                count, end, rows = len(part.draft.tokens), part.columns.stop, len(part.tokens)
                above = ancestors(part.draft)
                if window is not None:  # by positions: a node's column isn't its position
                    positions = torch.tensor(part.positions[rows - count :])
                    above &= positions > positions[:, None] - window
                seen[part.slot.index - self.low, rows - count : rows, end - count : end] = above
        return seen

    def _padded(self, numbers: Sequence[Sequence[int]]) -> torch.Tensor:
        """Numbers of each part's rows, 0 for padding; shape (slots, height, 1)."""
        given = torch.tensor(list(chain.from_iterable(numbers)))
        if self.padded:
            given = given.new_zeros(self.slots * self.height).index_copy_(0, self._place(given.device), given)
        return given.view(self.slots, self.height, 1)


def _attend(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, scoring: Scoring
) -> torch.Tensor:
    """Attention of shape (slots, key heads, rows, width)."""
    if scoring.softcap is None and scoring.sinks is None:
        return scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=scoring.scaling)
    scores = query @ keys.transpose(2, 3) * (query.shape[-1] ** -0.5 if scoring.scaling is None else scoring.scaling)
    if scoring.softcap is not None:
        scores = torch.tanh(scores / scoring.softcap) * scoring.softcap
    scores = scores + mask
    if scoring.sinks is not None:
        # A sink is one more column, whose share is lost (gpt-oss).
        sinks = scoring.sinks.reshape(1, keys.shape[1], -1, 1)
        sinks = sinks.repeat_interleave(query.shape[2] // sinks.shape[2], dim=2)
        scores = torch.cat([scores, sinks.expand(len(scores), -1, -1, -1)], dim=-1)
    probs = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    return probs[..., : keys.shape[2]] @ values


class Places:
    """Where the rows' keys and values go; `cache` is what the model takes for its own and hands them to."""

    def __init__(self, slab: Slab, parts: Sequence[Part]) -> None:
        self.slab = slab
        self.cache: Any = DynamicCache()
        self.cache.update = self.store
        self._places = [(part.slot.index, column) for part in parts for column in part.columns]
        self._on: dict[tuple[torch.device, int], torch.Tensor] = {}
        """By the device and the columns of a layer's tensors."""
        self._last: tuple[torch.Tensor, LayerSlab] | None = None
        self.layer = 0
        """The layer that stored last."""

    def store(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **named: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store the rows of all sequences, shape (1, key heads, rows, width)."""
        self.check_used()
        layer = self.slab.layer(layer_idx, key_states, value_states)
        kind = key_states.device, layer.keys.shape[2]
        places = self._on.get(kind)
        if places is None:
            found = [slot * kind[1] + column for slot, column in self._places]
            places = self._on[kind] = torch.tensor(found, device=key_states.device)
        for mine, given in zip(layer, (key_states, value_states), strict=True):
            mine.view(len(mine), -1, mine.shape[3]).index_copy_(1, places, given[0])
        self._last, self.layer = (key_states, layer), layer_idx
        return key_states, value_states

    def of(self, keys: torch.Tensor) -> LayerSlab:
        """The layer that these keys were stored in. Raises CantPack for keys that were changed, or not stored."""
        if self._last is None or self._last[0] is not keys:
            raise CantPack("its attention changes keys after the cache has them")
        layer, self._last = self._last[1], None
        return layer

    def check_used(self) -> None:
        """Raises CantPack where the keys of the last layer went elsewhere than to the attention here."""
        if self._last is not None:
            raise CantPack("its attention doesn't go through the library's interface")


class Packing:
    """The attention of one packed forward."""

    def __init__(self, slab: Slab, parts: Sequence[Part], windowed: Collection[int] = ()) -> None:
        """Arrange the rows.

        Args:
            slab: keys and values of all sequences.
            parts: with slots that have room for their rows.
            windowed: layers with a window, which their attention must state.
        """
        self.windowed = windowed
        self.groups = list(_grouped(parts))
        self.parts = [part for group in self.groups for part in group.parts]
        """In the order of their rows in the packed sequence."""
        self.places = Places(slab, self.parts)
        self.tokens = [token for part in self.parts for token in part.tokens]
        self.positions = [position for part in self.parts for position in part.positions]
        self.wanted: list[int] = []
        """Rows whose logits are asked for: each last pending token's and each draft's."""
        self.first_wanted: dict[Slot, int] = {}
        """Where a sequence's first one is in `wanted`."""
        end = 0
        for part in self.parts:
            end += len(part.tokens)
            self.first_wanted[part.slot] = len(self.wanted)
            self.wanted += range(end - len(part.draft.tokens) - 1, end)

    def attend(self, query: torch.Tensor, keys: torch.Tensor, scoring: Scoring) -> torch.Tensor:
        """Attention of all rows, shape (1, heads, rows, width), as the library wants it: (1, rows, heads, width)."""
        layer, rows = self.places.of(keys), query[0].transpose(0, 1)
        if scoring.window is None and self.places.layer in self.windowed:
            raise CantPack("its attention has a window that it doesn't state")
        found = [group.attend(rows[group.first : group.first + group.rows], layer, scoring) for group in self.groups]
        return (found[0] if len(found) == 1 else torch.cat(found))[None]


def _grouped(parts: Sequence[Part]) -> Iterator[Group]:
    """Few rows together where padding wastes little, prompts and the rest one by one."""
    parts = sorted(parts, key=lambda part: part.slot.index)
    first = 0
    for most in (FEW, 1):
        together = [part for part in parts if len(part.tokens) <= most]
        if len(together) > 1 and (group := Group(together, 0)).dense:
            yield group
            first, parts = group.rows, [part for part in parts if len(part.tokens) > most]
            break
    for part in parts:
        yield Group([part], first)
        first += len(part.tokens)


_CURRENT: ContextVar[Packing] = ContextVar("packing")


@contextmanager
def packed(model: Any, packing: Packing) -> Iterator[None]:
    """Attend by this packing in every forward of the block."""
    token = _CURRENT.set(packing)
    try:
        with switched(model, _NAME):
            yield
    finally:
        _CURRENT.reset(token)


def why_not(model: Any, layers: Sequence[Any], takes_positions: bool) -> str:
    """Why requests of this model can't share a forward; "" where they can.

    What a model does with kernels that know no mask (flash attention) it does here too: it states window, soft cap and
    sinks in the call.
    """
    kind, config = type(model), model.config.get_text_config(decoder=True)
    ropes = str(getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None))
    if any(type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers):
        return "its cache holds more than keys and values"
    if not takes_positions:
        return "its forward takes no position_ids"
    if not kind.is_backend_compatible() or not getattr(kind, "_supports_flash_attn", False):
        return "its attention doesn't go through the library's interface"
    if any(f"'{name}'" in ropes for name in ("dynamic", "longrope")):
        return "its rotary positions depend on the longest sequence of a forward"
    return ""


def _attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as transformers calls it. Raises CantPack for what isn't honoured."""
    more |= {"a mask of its own": attention_mask, "dropout": dropout or None}
    for name, given in more.items():
        if given is not None and name not in _NO_MATTER:
            raise CantPack(f"its attention is given {name}")
    if not (getattr(module, "is_causal", True) and more.get("is_causal") in (None, True)):
        raise CantPack("its attention isn't causal")
    return _CURRENT.get().attend(query, key, Scoring(scaling, sliding_window, softcap, s_aux)), None


AttentionInterface.register(_NAME, _attention)
