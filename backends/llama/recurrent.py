"""Sessions of recurrent and hybrid models, whose state can't drop its last tokens: a checkpoint is restored instead.

A checkpoint is a copy of the sequence under an id of its own. Making it copies no state: llama.cpp writes the next
state of a sequence that shares one elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Self

from reasonctl.controller import NO_DRAFT, Capabilities, ControllerError, Draft, Engine

from ..checkpoints import Checkpoint
from .sequences import Sequences
from .session import ONE_LEAF, LlamaSession


class _Copy:
    """A sequence as it was, under an id of its own, for a session and its forks."""

    def __init__(self, sequences: Sequences, source: int) -> None:
        self.id = sequences.take(1)[0]
        self.users = 1
        """Sessions that may restore it."""
        self._sequences = sequences
        sequences.copy(source, self.id)

    def release(self) -> None:
        """One session needs it no more."""
        self.users -= 1
        if not self.users:
            self._sequences.give_back([self.id])


class RecurrentSession(LlamaSession):
    """A sequence with a state: it is shortened by restoring its checkpoint, and what was kept after it is fed again.

    Where nobody asks for checkpoints, a rejected draft has one of its own.
    """

    def __init__(self, engine: Engine, sequences: Sequences, sequence: int) -> None:
        super().__init__(engine, sequences, sequence)
        self._book = Checkpoint(at=0)
        self._copy: _Copy | None = None
        """The checkpoint; None: it is the empty sequence."""
        self._asked = False
        """A checkpoint was asked for, so it stays until the next one is."""

    @property
    def can(self) -> Capabilities:
        free = not self.sequences.context.fixed
        return replace(super().can, rollback=free, checkpoints=free, branches=int(free), fork=free)

    @property
    def owed(self) -> Sequence[int]:
        """What the restored state lacks."""
        return self._book.owed

    @property
    def least(self) -> int:
        """Fewest tokens that a rollback can leave."""
        return self.length if self.sequences.context.fixed else self._book.least(self.length)

    def checkpoint(self) -> None:
        """Let later rollbacks reach the present length, and none before it. The copy is made by the next forward."""
        if self.draft.tokens:
            self.keep(())
        self._asked = True
        self._book.wanted = True

    def lags(self, draft: Draft) -> bool:
        """Whether a checkpoint is due before the next forward, and tokens must be fed before it can be made."""
        return bool(self._book.owed) and self._due(draft)

    def caught_up(self) -> None:
        """What was owed has been fed."""
        self.reach = self.length
        self._book.commit(())

    def ready(self, draft: Draft) -> None:
        """Make the checkpoint that is due before a forward."""
        if self._due(draft) and not self.sequences.context.fixed:
            self._take()

    def _due(self, draft: Draft) -> bool:
        return self._book.wanted or (bool(draft.tokens) and not self._asked)

    def _take(self) -> None:
        """Copy the sequence, which the cache holds whole; the copy before it is freed."""
        if self._book.at == self.length:
            self._book.wanted = False  # nothing was fed since
            return
        if self._copy is not None and self._copy.users == 1:
            self.sequences.copy(self.id, self._copy.id)  # which holds a beginning of this sequence, and nothing else
        else:
            self._release_copy()
            self._copy = _Copy(self.sequences, self.id) if self.length else None
        self._book.taken(self.length)

    def _release_copy(self) -> None:
        if self._copy is not None:
            self._copy.release()
        self._copy = None

    def adopt(self, length: int) -> int:
        """Take over the first `length` tokens that stand in the sequence; there is a checkpoint after them.

        Returns:
            The tokens taken: `length`, or 0 where others stand in the sequence, which is emptied then.
        """
        self._release_copy()
        taken = super().adopt(length)
        self._book = Checkpoint(at=0)
        self._asked = False
        if taken and not self.sequences.context.fixed:
            self._take()
        return taken

    def _shortens(self, length: int) -> bool:
        return False

    def trim(self) -> None:
        """Restore the checkpoint, where the state has gone on from what is committed."""
        if self._stale and not self.draft.tokens:
            self.sequences.remove(self.id)
            if self._copy is not None:
                self.sequences.copy(self._copy.id, self.id)
            self._stale = False
            self.reach = self.length - len(self.owed)
            self._limit_shared(self.reach)

    def advance(self, pending: Sequence[int], draft: Draft = NO_DRAFT, below: list[list[int]] = ONE_LEAF) -> None:
        """A forward has put what was owed, these tokens and a draft into the cache."""
        super().advance(pending, draft, below)
        self._book.commit(pending)

    def keep(self, path: Sequence[int]) -> None:
        """Commit a path of the last draft. Raises ControllerError if it does not start at the root."""
        draft = self.draft
        draft.check_path(path)
        if not draft.tokens:
            return
        accepted = [draft.tokens[node] for node in path]
        self.draft = NO_DRAFT
        self.length += len(accepted)
        if len(path) == len(draft):
            self._book.commit(accepted)
        else:
            self._book.reject(self._book.since, accepted)
            self._stale = True

    def _forget(self, n: int) -> None:
        if n and (reason := self.sequences.context.fixed):
            raise ControllerError(f"can't roll back {n} of {self.length} tokens: {reason}")
        if self._book.rollback(self.length, n):
            self._stale = True

    def fork(self) -> Self:
        """An independent sequence with the same checkpoint; it shares the cells of the tokens that both have."""
        if reason := self.sequences.context.fixed:
            raise ControllerError(f"this sequence can't be forked: {reason}")
        fork = super().fork()
        fork._book = self._book.fork()
        fork._asked = self._asked
        fork._copy = self._copy
        if fork._copy is not None:
            fork._copy.users += 1
        return fork

    def drop(self) -> None:
        """Forget whatever is not committed."""
        super().drop()
        self._book.reject(self._book.since, ())

    def close(self) -> None:
        """Give the sequence's ids back; nothing happens where the context is gone."""
        if not self._closed and self.sequences.context.open:
            self._release_copy()
        super().close()
