"""One sequence id of a llama.cpp context as a session: commit, roll back, fork and branch without a forward.

Owns the edits of the cache; the engine owns the forward.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from weakref import WeakSet

from llama_cpp import llama_cpp as C

from reasonctl.controller import NO_DRAFT, ROOT, Capabilities, ControllerError, Draft, Session

if TYPE_CHECKING:
    from .engine import LlamaEngine


class LlamaSession:
    """One sequence id. What it forgets stays in the cache until the next forward needs the room."""

    def __init__(self, engine: LlamaEngine, sequence: int) -> None:
        self.engine, self.id, self.length = engine, sequence, 0
        self.ids, self.draft, self.below = [sequence], NO_DRAFT, [[0]]
        self._stale = self._closed = False
        self.reach = self.shared = 0
        self._forks: WeakSet[LlamaSession] = WeakSet()
        engine.live[sequence] = self

    @property
    def can(self) -> Capabilities:
        return self.engine.capabilities(self)

    @property
    def cells(self) -> int:
        """Cells of the context that hold its tokens, forgotten ones too; those it shares with its origin left out."""
        return max(self.reach, self.length) - self.shared

    def adopt(self, length: int) -> int:
        """Take over what stands in the sequence, `length` tokens of it if it can; the number taken."""
        present = int(C.llama_memory_seq_pos_max(self.engine.memory, self.id)) + 1
        self.drop()
        self.length, self._stale = length, present > length
        if present < length or (self._stale and not self.engine.editable):
            C.llama_memory_seq_rm(self.engine.memory, self.id, -1, -1)
            self.length, self._stale, present = 0, False, 0
        self.reach = present
        return self.length

    def settle(self) -> None:
        """Bring the cache to exactly the committed tokens."""
        if self._closed:
            raise RuntimeError("this session is closed")
        if self.draft.tokens:
            self.keep(())
        if self._stale:
            if not C.llama_memory_seq_rm(self.engine.memory, self.id, self.length, -1):
                raise RuntimeError(f"llama.cpp can't remove the tokens from {self.length} on of sequence {self.id}")
            self._stale, self.reach = False, self.length

    def branch(self, leaves: int) -> None:
        """One sequence id per leaf."""
        self.ids = [self.id, *self.engine.take(leaves - 1)]

    def spread(self, base: int) -> None:
        """Give the first `base` tokens to every leaf."""
        for leaf in self.ids[1:]:
            C.llama_memory_seq_cp(self.engine.memory, self.id, leaf, 0, base)

    def keep(self, path: Sequence[int]) -> None:
        self.draft.check_path(path)
        if not self.draft.tokens:
            return
        kept = self.length + len(path)
        if len(self.ids) > 1:
            last = path[-1] if path else ROOT
            leaf, memory = self.ids[self.below[last + 1][0]], self.engine.memory
            if leaf != self.id:
                C.llama_memory_seq_rm(memory, self.id, self.length, -1)
                C.llama_memory_seq_cp(memory, leaf, self.id, self.length, kept)
            self.drop()
        self.length, self.draft, self._stale = kept, NO_DRAFT, True

    def rollback(self, n: int) -> None:
        if not 0 <= n <= self.length:
            raise ControllerError(f"can't roll back {n} of {self.length} tokens")
        if self.draft.tokens:
            self.keep(())
        if n and not self.engine.editable:
            raise ControllerError(
                "this model's cache can't roll back tokens (recurrent or windowed); open a new session"
            )
        self.length, self._stale = self.length - n, self._stale or n > 0
        for session in (self, *self._forks):
            session.shared = min(session.shared, self.length)

    def fork(self) -> Session:
        if self.draft.tokens:
            raise ControllerError("fork after keep: a draft's rows are not committed")
        if not self.engine.editable:
            raise ControllerError("this model's cache (recurrent or windowed) can't be forked; start a new session")
        self.settle()
        fork = self.engine.session()
        C.llama_memory_seq_cp(self.engine.memory, self.id, fork.id, -1, -1)
        fork.length = fork.reach = fork.shared = self.length
        self._forks.add(fork)
        return fork

    def drop(self) -> None:
        """Forget the branches of a tree, and whatever else is not committed."""
        for leaf in self.ids[:0:-1]:
            C.llama_memory_seq_rm(self.engine.memory, leaf, -1, -1)
            self.engine.free.append(leaf)
        self.ids, self.draft, self._stale = [self.id], NO_DRAFT, True

    def close(self) -> None:
        if self._closed or not self.engine.open:
            return
        self.drop()
        C.llama_memory_seq_rm(self.engine.memory, self.id, -1, -1)
        if self.id:
            self.engine.free.append(self.id)
        for fork in self._forks:
            fork.shared = 0  # the cells are its own now
        self.length, self._closed = 0, True
        self.engine.live.pop(self.id, None)


def leaves_below(draft: Draft) -> list[list[int]]:
    """Leaves under the root (first) and under each node, numbered as they come; an empty draft is one leaf.

    >>> leaves_below(Draft((5, 6, 7), (ROOT, ROOT, 0)))
    [[0, 1], [1], [0], [1]]
    """
    inner = set(draft.parents)
    leaves = [node for node in range(len(draft)) if node not in inner] or [ROOT]
    below: list[list[int]] = [[] for _ in range(len(draft) + 1)]
    for number, leaf in enumerate(leaves):
        for node in (ROOT, *draft.path(leaf)):
            below[node + 1].append(number)
    return below
