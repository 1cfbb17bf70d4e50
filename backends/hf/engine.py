"""transformers as an engine: sequences that can branch, roll back and fork, alone or many in one forward.

The engine checks requests and opens sessions. `forward.py` calls the model, `packed.py` says how many sequences share
a call, and the session edits its cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import accumulate, chain
from typing import Any, NamedTuple

import torch

from reasonctl.controller import NO_DRAFT, Capabilities, ControllerError, Decode, Engine
from reasonctl.controller.core import UNLIMITED, Memory

from ..memory import free_memory
from .checkpointed import HFCheckpointedSession
from .forward import HFStep, ModelForward, Rows
from .packed import CantPack, Packing, Part, packed
from .session import HFSession
from .slab import Slab
from .trees import why_no_trees

MOST_ROWS = 2048
"""Rows of one call of the model: prompts are fed together up to so many, and a longer one in several calls."""

MOST_SEQUENCES = 64
"""Sequences that share a forward."""

_WIDEST = 4
"""A token's keys, or values, of a layer are hardly ever more than so many times as wide as its hidden state."""


class HFEngine(Engine):
    """One transformers causal language model."""

    batch = MOST_SEQUENCES

    def __init__(
        self, model: Any, fold_attention: bool = False, *, trees: bool = True, longest: int = UNLIMITED
    ) -> None:
        """Raises ControllerError for a model that keeps no DynamicCache.

        Args:
            model: a causal language model of transformers.
            fold_attention: as in `attach`.
            trees: drafts may be trees, where the model honours them. It is asked once, which takes four forwards.
            longest: most tokens of one sequence. Default: no limit, as the library has none.
        """
        self.model_forward = ModelForward(model, fold_attention)
        if self.model_forward.recurrent:
            self.cuts = 0
        self.slab = Slab()
        """Keys and values of sequences that share forwards."""
        self.no_trees = "its cache holds more than keys and values"
        """Why drafts are chains here; "" where they may be trees."""
        if self.can.branches > 1:
            self.no_trees = why_no_trees(self, model) if trees else "the model wasn't asked whether it honours trees"
            if self.no_trees:
                self.model_forward.can = replace(self.can, branches=1, sparse=False)
        self.longest = longest

    @property
    def can(self) -> Capabilities:
        """What its sessions can do."""
        return self.model_forward.can

    @property
    def identity(self) -> str:
        """What a forward's cost depends on, besides the machine."""
        model = self.model_forward.model
        attention = getattr(model.config, "_attn_implementation", None)
        shape = f"{type(model).__name__} {model.num_parameters()} {model.dtype} {model.device} {attention}"
        return f"transformers {shape} threads {torch.get_num_threads()}"

    @property
    def checkpoint_bytes(self) -> int:
        """Bytes of the states of one sequence."""
        return self.model_forward.state_bytes

    def session(self) -> HFSession:
        """An empty sequence on the device that the model is on now."""
        return self.adopt(None, 0)

    def adopt(self, cache: Any, length: int) -> HFSession:
        """A sequence whose first `length` tokens are in a DynamicCache; None: there are none."""
        kind = HFCheckpointedSession if self.model_forward.recurrent else HFSession
        return kind(self, self.model_forward, cache, length, self.model_forward.device)

    def together(self, requests: Sequence[Decode]) -> int:
        """How many of the first requests share one call of the model; at least 1."""
        if self.model_forward.in_turn:
            return 1
        rows = accumulate(rows_of(request) for request in requests[: self.batch])
        return max(1, sum(so_far <= MOST_ROWS for so_far in rows))

    def memory(self, sessions: int, tokens: int) -> Memory:
        """What the sequences' slab may grow by, on the model's device; it is measured by one forward."""
        return Memory(str(self.model_forward.device), self.free_bytes(), self.cache_bytes([tokens] * sessions))

    def free_bytes(self) -> int | None:
        """Bytes that caches may take on the model's device. None: unknown."""
        device = self.model_forward.device
        if device.type == "cuda":
            idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
            return int(torch.cuda.mem_get_info(device)[0]) + idle  # what torch has taken and nobody holds is reused
        return free_memory() if device.type in ("cpu", "mps") else None

    def cache_bytes(self, lengths: Sequence[int], *, together: bool = True) -> int:
        """Bytes that further sequences of these lengths take at once, beyond what the slab holds already.

        together: they share forwards where the model allows it; else each has a cache of its own.
        """
        if not lengths:
            return 0
        if self.model_forward.in_turn or not together:
            return sum(lengths) * self.token_bytes + len(lengths) * self.checkpoint_bytes
        slots, columns = len(self.slab.slots) + len(lengths), self.slab.columns_for(max(lengths))
        places = self.slab.room_for(slots) * max(columns, self.slab.columns)
        return max(0, places * self.token_bytes - self.slab.bytes)

    @cached_property
    def token_bytes(self) -> int:
        """Bytes of keys and values of one token."""
        session = self.session()
        session.feed(Decode(session, [0]))
        held = [getattr(layer, name, None) for layer in session.cache.layers for name in ("keys", "values")]
        return sum(states.nbytes for states in held if torch.is_tensor(states))

    def has_plenty(self, lengths: Sequence[int]) -> bool:
        """Whether so much memory is free that caches of these lengths needn't be measured: it costs no forward."""
        model, free = self.model_forward.model, self.free_bytes()
        width = getattr(model.config.get_text_config(decoder=True), "hidden_size", None)
        if free is None or width is None:
            return free is None
        token = _WIDEST * 2 * self.can.layers * width * model.dtype.itemsize
        places = len(lengths) * self.slab.columns_for(max(lengths))
        return bool(places * token + len(lengths) * self.checkpoint_bytes <= free)

    def forward(self, requests: Sequence[Decode]) -> list[HFStep]:
        """Run requests together where the model allows it, and in turn elsewhere.

        A sequence that has never shared a forward runs alone as the library runs it, bit for bit.

        Whatever it fails with, every session holds what it held before; see `HFSession.undo`.

        Raises:
            ControllerError: a session is another engine's, or has two of the requests, or a request can't be run.
        """
        members = [Member(self._own(request), request) for request in requests]
        if len(members) > 1 and len({id(session) for session, _ in members}) < len(members):
            raise ControllerError("one forward takes one request per session")
        lengths = [session.length for session, _ in members]
        self.model_forward.begin()
        try:
            return self._steps(members)
        except BaseException:  # of an interrupted call too: rows that were fed would be fed again
            for (session, _), length in zip(members, lengths, strict=True):
                session.undo(length)
            raise

    def _steps(self, members: Sequence[Member]) -> list[HFStep]:
        if len(members) > 1:
            joined = [member for member in members if member.session.packs]
        else:
            joined = [member for member in members if member.session.slot is not None]
        for session, request in joined:
            session.check(request)
        steps: dict[int, HFStep] = {}
        for part in _by_rows(joined):
            steps |= self._together(part)
        return [steps.get(id(member.session)) or member.session.feed(member.request) for member in members]

    def _own(self, request: Decode) -> HFSession:
        session = request.session
        if not isinstance(session, HFSession) or session.engine is not self:
            raise ControllerError("this session belongs to another engine; decode it there")
        return session

    def _together(self, members: Sequence[Member]) -> dict[int, HFStep]:
        """Steps by the id of their session; none where the model turns out not to allow it."""
        for session, _ in members:
            session.join(self.slab)
        self.slab.reserve(max(session.length + rows_of(request) for session, request in members))
        try:
            parts = [self._last_part(member) for member in members]
            packing = Packing(self.slab, parts, self.model_forward.windowed)
            rows = self._call(packing, [request.layers for _, request in members])
        except CantPack as reason:
            self.model_forward.in_turn = str(reason)
            return {}
        if len(packing.wanted) == len(members):
            rows.read_all()  # there is no draft: each row will be read
        steps = {}
        for session, request in members:
            assert session.slot is not None
            first = packing.first_wanted[session.slot]
            steps[id(session)] = HFStep(self.model_forward, rows, request.layers, first)
            session.grown(request)
        return steps

    def _last_part(self, member: Member) -> Part:
        """The rows of a request; of a prompt with more than `MOST_ROWS` the last ones, and the others are fed here."""
        part = member.part()
        while len(part.tokens) > MOST_ROWS and (most := min(MOST_ROWS, len(part.tokens) - len(part.draft.tokens) - 1)):
            first = Part(part.slot, part.past, part.tokens[:most], NO_DRAFT)
            self._call(Packing(self.slab, [first], self.model_forward.windowed), ())
            part = Part(part.slot, part.past + most, part.tokens[most:], part.draft)
        return part

    def _call(self, packing: Packing, layers: Sequence[tuple[int, ...]]) -> Rows:
        forward = self.model_forward
        with torch.inference_mode(), packed(forward.model, packing):
            ids, positions = (
                torch.tensor((row,), device=forward.device) for row in (packing.tokens, packing.positions)
            )
            every = tuple(dict.fromkeys(chain.from_iterable(layers)))
            more = {"position_ids": positions}
            wanted = packing.wanted
            rows = len(wanted) if len(wanted) == len(packing.tokens) else torch.tensor(wanted)
            found = forward.run(ids, packing.places.cache, rows, every, more)
        packing.places.check_used()
        return found


class Member(NamedTuple):
    """One request of a shared forward."""

    session: HFSession
    request: Decode

    def part(self) -> Part:
        """Its rows, once the session has a slot."""
        assert self.session.slot is not None
        pending, draft = self.request.pending, self.request.draft
        return Part(self.session.slot, self.session.length, [*pending, *draft.tokens], draft)


def rows_of(request: Decode) -> int:
    """Rows that a request feeds."""
    return len(request.pending) + len(request.draft.tokens)


def _by_rows(members: Sequence[Member]) -> Iterator[list[Member]]:
    """Members in order, as many at a time as have `MOST_ROWS` rows together; one at least."""
    part, rows = list[Member](), 0
    for member in members:
        if part and rows + rows_of(member.request) > MOST_ROWS:
            yield part
            part, rows = [], 0
        part.append(member)
        rows += rows_of(member.request)
    if part:
        yield part
