"""A sequence in a transformers cache: what each forward is given, and how drafts are kept or forgotten.

`HFSparseSession` is a view of a sequence that reads a part of its cache: the retrieval cache of TriForce (Sun et al.
2024, section 4.1). `sparse.py` chooses that part.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch

from reasonctl.controller import NO_DRAFT, Capabilities, ControllerError, Decode, Draft, Engine, Session
from reasonctl.controller.core import UNLIMITED, SparseSession

from ..token_ids import check_fits, check_ids
from .attention import MOST_ROWS, folded
from .forward import HFStep, ModelForward
from .prompts import Prompt
from .slab import Slab, Slot
from .sparse import choose, keep_columns
from .states import copied, crop, undo
from .tree_masks import tree_mask


class HFSession(Session):
    """One sequence: `length` committed tokens in the cache, then the rows of a draft that is not kept yet."""

    length: int = 0

    def __init__(
        self, engine: Engine, model_forward: ModelForward, cache: Any, length: int, device: torch.device
    ) -> None:
        self.engine = engine
        self.model_forward = model_forward
        self._cache = cache
        self.length = length
        self.device = device
        self.slot: Slot | None = None
        """Where the tokens are in the engine's slab, once the sequence has shared a forward; it has no cache then."""
        self.lead: torch.Tensor | None = None
        """How far the first tokens' positions are ahead of their places, shape (1, n) or (axes, 1, n), n from 1 on.

        The last value holds for all later tokens. After pictures, or where a call gives its own; None = nowhere."""
        self.embeds: torch.Tensor | None = None
        """Fed in the places of the first tokens' ids, shape (1, n, width); None where all tokens are fed by id."""
        self.left_out = 0
        """Of the first `length` tokens, those without a column in the cache: none, but in a sparse view."""
        self.folds_plain_rows = model_forward.folds_plain_rows
        """Rows without a draft fold too: always in a sparse view, whose columns the library's masks don't know."""
        self._draft = NO_DRAFT
        self._positions = torch.arange(0, device=device)

    @property
    def cache(self) -> Any:
        """The library's cache, made when it is first wanted: a sequence of a batch may never want one."""
        if self._cache is None and self.slot is None:
            self._cache = self.model_forward.new_cache()
        return self._cache

    @cache.setter
    def cache(self, cache: Any) -> None:
        self._cache = cache

    @property
    def can(self) -> Capabilities:
        can, longest = self.model_forward.can, self.engine.longest
        return can if longest == UNLIMITED else replace(can, free=longest - self.length)

    def feed(self, request: Decode) -> HFStep:
        """Run one forward of this sequence alone; see `Decode`."""
        self.check(request)
        self.leave()
        return self._run([*request.pending, *request.draft.tokens], request.draft, request.layers)

    def settle(self) -> None:
        """Make the cache hold all committed tokens, as it does but where some are owed to a state."""
        return None

    def check(self, request: Decode) -> None:
        """Forget what was not kept of the last draft. Raises ControllerError for a request that can't be run."""
        if not request.pending:
            raise ControllerError("a Decode needs at least one pending token")
        if request.draft.tokens:
            self._check_draft(request.draft)
        check_ids(request.pending, self.model_forward.can.vocabulary, "what is to be decoded")
        wanted = len(request.pending) + len(request.draft.tokens)
        check_fits(self.length, wanted, self.engine.longest)
        self.model_forward.check_layers(request.layers)
        if self._draft.tokens:
            self.keep(())

    @property
    def packs(self) -> bool:
        """Whether the sequence can share a forward: its columns are its tokens."""
        return not self.in_turn and self._given == 0

    @property
    def in_turn(self) -> str:
        """Why the sequence shares no forward once its embeddings are fed; "" where it does."""
        return self.model_forward.in_turn or ("" if self.lead is None else "this row has positions of its own")

    @property
    def _given(self) -> int:
        """How many of the next tokens are given as embeddings."""
        return 0 if self.embeds is None else max(0, self.embeds.shape[1] - self.length)

    def feeds(self, prompt: Prompt) -> HFSession:
        """The sequence is this prompt's: its embeddings and positions are used."""
        self.embeds, self.lead = prompt.embeds, prompt.lead
        return self

    def join(self, slab: Slab) -> Slot:
        """Move to a slot of the slab, unless the sequence is there already."""
        if self.slot is None:
            slot = slab.open()
            try:
                slot.columns = self.length
                if self.length:
                    slab.reserve(self.length)
                    for number, layer in enumerate(self.cache.layers):
                        slot.fill(number, layer.keys, layer.values)
            except BaseException:
                slot.close()
                raise
            self._take(slot)
            self.cache = None
            return slot
        return self.slot

    def leave(self) -> None:
        """Move back to a cache of its own."""
        if self.slot is not None:
            self.cache = self._copied_cache()
            self._give_back()

    def set_aside(self) -> None:
        """Leave the slab, whose other sequences would be computed over a slot that nobody feeds."""
        self.keep(())
        self.leave()

    def _give_back(self) -> None:
        if self.slot is not None:
            self._owner.detach()
            self.slot.close()
            self.slot = None

    def grown(self, request: Decode) -> None:
        """The slot has the request's rows now."""
        assert self.slot is not None
        self.slot.columns += len(request.pending) + len(request.draft.tokens)
        self.length += len(request.pending)
        self._draft = request.draft

    def undo(self, length: int) -> None:
        """Go back to the first `length` tokens after a forward that failed, here or in the rows of another sequence."""
        self._draft, self.length = NO_DRAFT, length
        if self.slot is not None:
            self.slot.columns = length
            return
        with torch.inference_mode():
            for layer in self._cache.layers if self._cache is not None else ():
                undo(layer, length - self.left_out)

    def _check_draft(self, draft: Draft) -> None:
        check_ids(draft.tokens, self.can.vocabulary, "a draft")
        branches = self.can.branches
        if branches == 0 or (branches == 1 and not draft.is_chain()):
            raise ControllerError(f"this model's cache takes at most {branches} branches; give a smaller draft")

    def _run(self, tokens: list[int], draft: Draft, layers: tuple[int, ...]) -> HFStep:
        size = len(tokens)
        with torch.inference_mode(), self._attention(draft, size):
            inputs = self._inputs(draft, size)
            ids = torch.tensor((tokens,), device=self.device)
            if self._given:
                inputs["inputs_embeds"] = self._embedded(ids)
            rows = self.model_forward.run(ids, self.cache, 1 + len(draft.tokens), layers, inputs)
        self.length += size - len(draft.tokens)
        self._draft = draft
        return HFStep(self.model_forward, rows, layers)

    def _embedded(self, ids: torch.Tensor) -> torch.Tensor:
        """Shape (1, size, width): what is given for the first of these tokens, and the embeddings of the others."""
        assert self.embeds is not None
        start, given = self.length, min(self._given, ids.shape[1])
        own = self.embeds[:, start : start + given].to(self.device)
        if given == ids.shape[1]:
            return own
        return torch.cat([own, self.model_forward.model.get_input_embeddings()(ids[:, given:]).to(own)], dim=1)

    def _folds(self, draft: Draft, size: int) -> bool:
        """Whether query heads are folded into the rows: where there is a draft and a past, and no prompt is fed.

        Rows without a draft run the library's own kernels, so that they are the library's bit for bit.
        """
        wanted = bool(draft.tokens) or self.folds_plain_rows
        return wanted and self.length - self.left_out > 0 and self.model_forward.groups > 0 and size <= MOST_ROWS

    def _attention(self, draft: Draft, size: int) -> AbstractContextManager[None]:
        return folded(self.model_forward.model) if self._folds(draft, size) else nullcontext()

    def _inputs(self, draft: Draft, size: int) -> dict[str, Any]:
        """Mask and positions, where the model's forward can't tell them from the cache alone."""
        branches = bool(draft.tokens) and not draft.is_chain()
        if branches or (size > 1 and self._folds(draft, size)):
            return {
                "attention_mask": self._tree_mask(draft, size),
                "position_ids": self._tree_positions(draft, size),
            }
        if self.model_forward.takes_positions:
            return {"position_ids": self._range(self.length, self.length + size)}
        return {}

    def _range(self, start: int, end: int) -> torch.Tensor:
        """Shape (1, end - start), or (axes, 1, end - start): positions, sliced from a table that doubles."""
        if self._positions.shape[0] < end:
            self._positions = torch.arange(max(256, 2 * end), device=self.device)
        return self._led(self._positions[start:end][None])

    def _led(self, positions: torch.Tensor) -> torch.Tensor:
        """Positions of places, shape (1, size)."""
        if self.lead is None:
            return positions
        lead = self.lead.to(self.device)
        return positions + lead[..., positions[0].clamp(max=lead.shape[-1] - 1)]

    def _tree_positions(self, draft: Draft, size: int) -> torch.Tensor:
        """Shape (1, size): a node's position is its depth after the last pending token."""
        end = self.length + size - len(draft.tokens)
        positions = [*range(self.length, end), *(end + depth for depth in draft.depths())]
        return self._led(torch.tensor((positions,), device=self.device))

    def _tree_mask(self, draft: Draft, size: int) -> torch.Tensor:
        """Shape (1, 1, size, columns + size), its rows once for every group where heads are folded."""
        mask = tree_mask(draft, size, self.length - self.left_out, self.model_forward.model.dtype)
        if self._folds(draft, size):
            mask = mask.repeat(self.model_forward.groups, 1)
        return mask[None, None].to(self.device)

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
            if self.slot is not None:
                self.slot.gather(path, end)
                return
            columns = torch.tensor(path, device=self.device) + end
            for layer in self.cache.layers:
                here = columns.to(layer.keys.device)
                for states in (layer.keys, layer.values):
                    states[..., end : end + len(path), :] = states[..., here, :]

    def _crop(self, n: int) -> None:
        if n == 0:
            return
        if self.slot is not None:
            self.slot.crop(n)
            return
        with torch.inference_mode():
            for layer in self.cache.layers:
                crop(layer, n)

    def rollback(self, n: int) -> None:
        """Forget n tokens. Raises ControllerError for more than there are."""
        if not 0 <= n <= self.length:
            raise ControllerError(f"can't roll back {n} of {self.length} tokens")
        self.keep(())
        self._crop(n)
        self.length -= n

    def fork(self) -> HFSession:
        """An independent sequence.

        Attention layers share their tensors with it until either one grows; a slot is copied.
        """
        made = type(self)(self.engine, self.model_forward, None, self.length, self.device)
        made.lead, made.embeds = self.lead, self.embeds
        if self.slot is None:
            made.cache = self._copied_cache()
        else:
            self._check_kept()
            made._take(self.slot.fork())
        return made

    def _take(self, slot: Slot) -> None:
        self.slot = slot
        self._owner = slot.slab.own(slot, self)

    def _check_kept(self) -> None:
        if self._draft.tokens:
            raise ControllerError("fork after keep: a draft's rows are not committed")

    def _copied_cache(self) -> Any:
        self._check_kept()
        with torch.inference_mode():
            if self.slot is not None:
                cache = self.model_forward.new_cache()
                for number, states in self.slot.states().items() if self.length else ():
                    cache.update(states.keys, states.values, number)
                return cache
            cache = copy.copy(self.cache)
            cache.layers = [copied(layer) for layer in self.cache.layers]
        return cache

    def sparse(self, budget: int, chunk: int) -> HFSparseSession:
        """A view that reads `budget` tokens of the past, in chunks of `chunk`."""
        return HFSparseSession(self, budget, chunk)

    def close(self) -> None:
        """Give the cache's memory back."""
        self._give_back()
        self.cache = None
        self.length = 0
        self._draft = NO_DRAFT


class HFSparseSession(HFSession, SparseSession):
    """A session whose first row sees everything and chooses what stays: `budget` tokens, and what is fed later.

    The first chunk and an unfinished last one always stay. Positions are those of the whole sequence.
    """

    least: int = 0
    packs = False

    def __init__(self, whole: HFSession, budget: int, chunk: int) -> None:
        super().__init__(whole.engine, whole.model_forward, None, 0, whole.device)
        self.whole = whole
        self.folds_plain_rows = True
        self.budget = budget
        self.chunk = chunk
        self.renew()

    def renew(self) -> None:
        """Take over the tokens that the whole sequence holds now; the next row sees them all and chooses anew."""
        self.cache = self.whole._copied_cache()
        self.lead, self.embeds = self.whole.lead, self.whole.embeds
        self.length = self.whole.length
        self.left_out = 0
        self.least = 0
        self._draft = NO_DRAFT
        self._chosen = False

    def _run(self, tokens: list[int], draft: Draft, layers: tuple[int, ...]) -> HFStep:
        if self._chosen:
            return super()._run(tokens, draft, layers)
        before, row = self.length, -1 - len(draft.tokens)
        columns: dict[int, torch.Tensor] = {}

        def see(layer: int, query: torch.Tensor, key: torch.Tensor) -> None:
            columns[layer] = choose(query[0, :, row], key[0, :, :before], self.budget, self.chunk)

        with folded(self.model_forward.model, see):
            step = super()._run(tokens, draft, layers)
        with torch.inference_mode():
            for i, layer in enumerate(self.cache.layers):
                layer.keys = keep_columns(layer.keys, columns[i], before)
                layer.values = keep_columns(layer.values, columns[i], before)
        self.left_out = before - columns[0].shape[-1]
        self.least = before
        self._chosen = True
        return step

    def rollback(self, n: int) -> None:
        """Forget n tokens. Raises ControllerError for more than were fed since the choice."""
        if self._chosen and self.length - n < self.least:
            raise ControllerError(f"can't roll back {n} tokens: this view chose its part at {self.least}; renew it")
        super().rollback(n)

    def fork(self) -> HFSparseSession:
        """An independent view with the same part."""
        made = copy.copy(self)
        made.cache = self._copied_cache()
        return made

    def undo(self, length: int) -> None:
        """As for every session. What the rows chose stays chosen, of the tokens before them."""
        if self._chosen:
            super().undo(length)
        else:
            self.renew()  # nothing was fed since it took over what the whole sequence holds
