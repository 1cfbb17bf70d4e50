"""The sequence ids of one llama.cpp context: which are free, who holds the others, and how many cells are left.

Every edit of the cache without a forward goes through here: copying one sequence to another, and removing tokens.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from typing import Protocol

from llama_cpp import llama_cpp as C

from reasonctl.controller import Capabilities, ControllerError

from .native import Context


class Holder(Protocol):
    """Who holds a sequence id: a session."""

    @property
    def length(self) -> int:
        """Committed tokens."""

    @property
    def shared(self) -> int:
        """Committed tokens shared with the sequence that it was forked from; their cells are counted there."""

    @property
    def cells(self) -> int:
        """Cells of its own, forgotten tokens that still stand in them included."""

    def trim(self) -> None:
        """Remove forgotten tokens from the cache."""


class Sequences:
    """The sequence ids of one context and their holders."""

    def __init__(self, context: Context, kept: int) -> None:
        """All ids but the user's are free.

        Args:
            context: whose ids.
            kept: ids that trees leave to the sessions of a batch.
        """
        self.context = context
        self._leaves = context.sequences - 1 - kept
        """Most ids that the leaves of trees take."""
        self.free = list(range(context.sequences - 1, 0, -1))
        """Ids that nobody holds; the last one is given away next."""
        self._holders: dict[int, Holder] = {}

    def take(self, n: int) -> list[int]:
        """Take n free ids. Raises ControllerError where fewer are free.

        Where nothing stands in the cache it is as it was at first: which cells and ids a run gets, and so how its sums
        round, never follows from the runs before it.
        """
        if self.in_use == 1 and self.tokens_in(0) == 0:
            C.llama_memory_clear(self.context.memory, False)
            self.free.sort(reverse=True)
        if n > len(self.free):
            raise ControllerError(
                f"{n} more sequences are needed and {len(self.free)} of {self.context.sequences} are free; "
                "close sessions, or draft trees with fewer leaves"
            )
        return [self.free.pop() for _ in range(n)]

    @property
    def for_leaves(self) -> int:
        """Ids that the leaves of trees can take now, besides their session's own."""
        return min(len(self.free), self._leaves)

    def give_back(self, ids: Iterable[int]) -> None:
        """Empty these sequences, and let others take the ids. Id 0 is never taken, so it is only emptied."""
        for sequence in ids:
            self.remove(sequence)
            if sequence:
                self.free.append(sequence)

    def hold(self, sequence: int, holder: Holder) -> None:
        """Count a holder's cells from now on."""
        self._holders[sequence] = holder

    def release(self, sequence: int) -> None:
        """Count them no longer, and give the id back."""
        self.give_back([sequence])
        self._holders.pop(sequence, None)

    @property
    def committed(self) -> int:
        """Cells that the committed tokens of all sessions take."""
        return sum(holder.length - holder.shared for holder in self._holders.values())

    @property
    def in_use(self) -> int:
        """Ids that are taken, the user's own included."""
        return self.context.sequences - len(self.free)

    def trim(self) -> None:
        """Remove what the sessions have forgotten from the cache: it takes room that others need."""
        for holder in self._holders.values():
            holder.trim()

    def capabilities(self, holder: Holder, most: int) -> Capabilities:
        """What a session can do now where every token has a cell in every layer.

        A tree's leaves need free ids, and all sequences share the cells; `most` tokens more are the session's limit.
        """
        context = self.context
        others = 0
        for other in self._holders.values():
            if other is not holder:
                others += other.cells
        used = max(holder.length, others + holder.length - holder.shared)
        return Capabilities(
            rollback=True,
            branches=self.for_leaves + 1,
            fork=True,
            layers=context.depth,
            vocabulary=context.vocabulary,
            rows=context.batch,
            free=min(context.size - used, most),
        )

    def tokens_in(self, sequence: int) -> int:
        """Tokens that stand in a sequence, forgotten ones included."""
        return int(C.llama_memory_seq_pos_max(self.context.memory, sequence)) + 1

    def first_in(self, sequence: int) -> int:
        """The first position that all layers still have of a sequence; -1 = none."""
        return int(C.llama_memory_seq_pos_min(self.context.memory, sequence))

    def copy(self, source: int, target: int, start: int = -1, end: int = -1) -> None:
        """Let `target` have the tokens of `source` from `start` up to `end`; -1 = from the first, to the last."""
        C.llama_memory_seq_cp(self.context.memory, source, target, start, end)

    def remove(self, sequence: int, start: int = -1) -> bool:
        """Remove the tokens from `start` on; -1 = all. False where llama.cpp can't."""
        return bool(C.llama_memory_seq_rm(self.context.memory, sequence, start, -1))

    def separate(self, sequence: int) -> None:
        """Give a sequence cells of its own for the windows that it shares, so that others may overwrite theirs.

        Cells of two sequences are never overwritten. The copy has what the windows see, and nothing before it.
        """
        size = self.state_size(sequence)
        state = (ctypes.c_uint8 * size)()
        address, part = self.context.address, C.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY
        copied = C.llama_state_seq_get_data_ext(address, state, size, sequence, part)
        if copied != size or not C.llama_state_seq_set_data_ext(address, state, size, sequence, part):
            raise RuntimeError(f"llama.cpp can't copy the windows of sequence {sequence}")

    @property
    def state_bytes(self) -> int:
        """Memory of what one sequence keeps besides its cells: a state or a window; 0 while no sequence has tokens."""
        if self.context.cache.whole:
            return 0
        return max((self.state_size(one) for one, holder in self._holders.items() if holder.length), default=0)

    def state_size(self, sequence: int) -> int:
        """Bytes of what a sequence keeps besides its cells, with a few of llama.cpp's own."""
        part = C.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY
        return int(C.llama_state_seq_get_size_ext(self.context.address, sequence, part))
