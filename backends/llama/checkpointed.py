"""Sessions whose cache can't be cut where one likes: a checkpoint is restored, and what was kept after it is fed again.

A checkpoint is a sequence id of its own that holds what the cache would lose. Making one copies nothing: llama.cpp
writes the next state of a sequence that shares one elsewhere, and overwrites no cell of two sequences.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Self

from reasonctl.controller import NO_DRAFT, Capabilities, ControllerError, Draft, Engine

from ..checkpoints import Checkpoint
from .sequences import Sequences
from .session import ONE_LEAF, LlamaSession


class _Copy:
    """The id of a checkpoint, for a session and its forks."""

    def __init__(self, sequences: Sequences) -> None:
        self.id = sequences.take(1)[0]
        self.users = 1
        """Sessions that may restore it."""
        self._sequences = sequences

    def release(self) -> None:
        """One session needs it no more."""
        self.users -= 1
        if not self.users:
            self._sequences.give_back([self.id])


class CheckpointSession(LlamaSession):
    """A sequence that is cut by restoring its checkpoint.

    Where nobody asks for checkpoints, a draft has one of its own.
    """

    def __init__(self, engine: Engine, sequences: Sequences, sequence: int) -> None:
        super().__init__(engine, sequences, sequence)
        self._book = Checkpoint(at=0)
        self._copy: _Copy | None = None
        """The checkpoint; None: it is the empty sequence."""
        self._asked = False
        """A checkpoint was asked for, so it stays until the next one is."""
        self._lost = False
        """A forward failed, and nothing can bring back what the sequence held."""

    @abstractmethod
    def _put(self, copy: int) -> None:
        """Let a sequence id hold what a cut at the present length needs; it may hold an earlier checkpoint of this."""

    @abstractmethod
    def _restore(self) -> None:
        """Bring the cache back to the checkpoint."""

    def _cut(self, length: int) -> bool:
        """Cut the cache where it holds what is needed for that; returns whether it does."""
        return False

    def _reject(self, n: int) -> bool:
        """Cut off the last n tokens of the last forward, which were drafted; returns whether that can be done."""
        return self._cut(self.length)

    @property
    def can(self) -> Capabilities:
        can, free = super().can, not self.sequences.context.fixed
        return replace(can, rollback=free, checkpoints=free, branches=int(free), fork=free)

    @property
    def lacking(self) -> Sequence[int]:
        """What the restored cache lacks."""
        return self._book.owed

    @property
    def least(self) -> int:
        """Fewest tokens that a rollback can leave."""
        return self.length if self.sequences.context.fixed else self._book.least(self.length)

    def checkpoint(self) -> None:
        """Let later rollbacks reach the present length, and none before it. The next forward makes it."""
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
        """Make a checkpoint of the sequence, which the cache holds whole; the one before it is freed."""
        if self._book.at == self.length:
            self._book.wanted = False  # nothing was fed since
            return
        if self._copy is None or self._copy.users > 1:
            copy = _Copy(self.sequences)
            self._release_copy()
            self._copy = copy
        self._put(self._copy.id)
        self._book.taken(self.length)

    def _release_copy(self) -> None:
        if self._copy is not None:
            self._copy.release()
        self._copy = None

    def adopt(self, length: int) -> int:
        """Take over the first `length` tokens that stand in the sequence; there is a checkpoint after them.

        Returns:
            The tokens taken: `length`, or 0 where the cache can't be cut there and is emptied instead.
        """
        self._release_copy()
        taken = super().adopt(length)
        if self._stale:
            self.sequences.remove(self.id, taken)
            self._stale = False
            self.reach = taken
        fixed = bool(self.sequences.context.fixed)
        self._book = Checkpoint(at=None if fixed and taken else 0)
        self._asked = self._lost = False
        if not fixed:
            self._take()
        return taken

    def _shortens(self, length: int) -> bool:
        return False

    def trim(self) -> None:
        """Restore the checkpoint, where the cache has gone on from what is committed."""
        if self._stale and not self.draft.tokens:
            self._restore()
            self._stale = False
            self.reach = self.held - self.owed
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
        if len(path) == len(draft) or self._reject(len(draft) - len(path)):
            self._book.commit(accepted)
        else:
            self._book.reject(self._book.since, accepted)
            self._stale = True

    def _forget(self, n: int) -> None:
        if n and (reason := self.sequences.context.fixed):
            raise ControllerError(f"can't roll back {n} of {self.length} tokens: {reason}")
        if self._book.rollback(self.length, n):
            if not self._stale and self._cut(self.length - n):
                self._book.commit(())
            else:
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

    def settle(self) -> None:
        """Bring the cache to exactly the committed tokens."""
        if self._lost:
            raise RuntimeError("a forward of this session failed, and its cache can't be brought back; open another")
        super().settle()

    def undo(self, length: int) -> None:
        """As for any session: the checkpoint is restored, and what was committed after it is fed again.

        Where there is neither, as the library fed the tokens, the sequence is emptied, and its next forward is refused.
        """
        at = self._book.at
        if at is None:
            self.sequences.remove(self.id)
            self._lost, length = True, 0
        else:
            del self._book.since[length - at :]
        super().undo(length)

    def close(self) -> None:
        """Give the sequence's ids back; nothing happens where the context is gone."""
        if not self._closed and self.sequences.context.open:
            self._release_copy()
        super().close()


class RecurrentSession(CheckpointSession):
    """A sequence with a state of its whole text. A checkpoint has all of the sequence.

    Some architectures keep past states (`n_rs_seq`), and a rejected draft is cut off by going back to one. llama.cpp
    does so where all of this holds; elsewhere it says that it has, and the state is wrong:

    - fewer tokens are cut off than the last decode had, and once before the next decode;
    - the state isn't copied between the cut and the next decode;
    - no decode has several sequences: it moves states, and not the past ones.

    So contexts for batches keep none, and the cut is made right before the next decode. A checkpoint that is due then
    waits for a later forward, and a fork goes back to the checkpoint that there is.
    """

    def __init__(self, engine: Engine, sequences: Sequences, sequence: int) -> None:
        super().__init__(engine, sequences, sequence)
        self._rejected = 0
        """Drafted tokens that are cut off before the next forward."""

    def _reject(self, n: int) -> bool:
        # The last pending token was in the same forward, so that is never cut off whole.
        if n > self.sequences.context.past_states:
            return False
        self._rejected = n
        return True

    def ready(self, draft: Draft) -> None:
        """Cut off what was rejected, or make the checkpoint that is due."""
        if not self._rejected:
            super().ready(draft)
        elif not self.sequences.remove(self.id, self.length):
            raise RuntimeError(f"llama.cpp can't cut {self._rejected} rejected tokens off sequence {self.id}")

    def advance(self, pending: Sequence[int], draft: Draft = NO_DRAFT, below: list[list[int]] = ONE_LEAF) -> None:
        """A forward has put what was owed, these tokens and a draft into the cache."""
        self._rejected = 0
        super().advance(pending, draft, below)

    def adopt(self, length: int) -> int:
        """As for any session; a state that was to be cut can't be taken over."""
        if self._rejected:
            self.sequences.remove(self.id)
            self._rejected = 0
        return super().adopt(length)

    def fork(self) -> Self:
        """An independent sequence with the same checkpoint; both go back to it where a rejected draft was cut off."""
        if self._rejected:
            self._book.restored()
            self._stale = True
        return super().fork()

    def _put(self, copy: int) -> None:
        self.sequences.copy(self.id, copy)

    def _restore(self) -> None:
        self._rejected = 0
        self.sequences.remove(self.id)
        if self._copy is not None:
            self.sequences.copy(self._copy.id, self.id)


class WindowedSession(CheckpointSession):
    """A sequence of whose first tokens some layers have no cells: llama.cpp overwrites what a window has left.

    It is cut at once where the windows still hold what they saw there. A checkpoint has the cells of its window.
    """

    def __init__(self, engine: Engine, sequences: Sequences, sequence: int) -> None:
        super().__init__(engine, sequences, sequence)
        self._joined = False
        """Its windows are in cells that another sequence has too."""

    def _first(self, length: int) -> int:
        """The first token that the token after `length` tokens sees in every layer."""
        return max(0, length + 1 - self.sequences.context.cache.window)

    def _put(self, copy: int) -> None:
        self.sequences.remove(copy)
        self.sequences.copy(self.id, copy, self._first(self.length), self.length)

    def _restore(self) -> None:
        at = self._book.at or 0
        self.sequences.remove(self.id, at)
        if self._copy is not None:
            self.sequences.copy(self._copy.id, self.id)

    def _shortens(self, length: int) -> bool:
        return 0 <= self.sequences.first_in(self.id) <= self._first(length)

    def _cut(self, length: int) -> bool:
        return self._shortens(length) and self.sequences.remove(self.id, length)

    def trim(self) -> None:
        """Restore the checkpoint where it must be, and take cells of its own for the windows.

        A cell of two sequences is never overwritten, so a fork that shared its windows would soon leave no cells.
        """
        super().trim()
        if self._joined and not self.draft.tokens:
            self.sequences.separate(self.id)
            self._joined = False

    def fork(self) -> Self:
        """An independent sequence; before its first forward it copies the windows."""
        fork = super().fork()
        fork._joined = self.length > 0
        return fork
