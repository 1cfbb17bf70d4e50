"""One sequence id of a llama.cpp context as a session: commit, roll back, fork and branch without a forward.

The session decides what its sequence should hold; `sequences.py` edits the cache, and the engine runs the forward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Self
from weakref import WeakSet

from reasonctl.controller import NO_DRAFT, ROOT, Capabilities, ControllerError, Draft, Engine, Session
from reasonctl.controller.core import Floats

from .sequences import Sequences


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


ONE_LEAF = leaves_below(NO_DRAFT)
"""Of no draft."""


class LlamaSession(Session):
    """One sequence id. What it forgets stays in the cache until the next forward needs the room."""

    length: int = 0

    def __init__(self, engine: Engine, sequences: Sequences, sequence: int) -> None:
        self.engine = engine
        self.sequences = sequences
        self.id = sequence
        self.ids = [sequence]
        """The sequence of every leaf of the last draft; its own first."""
        self.draft = NO_DRAFT
        self.below = ONE_LEAF
        """The draft's leaves under the root and under each node; see `leaves_below`."""
        self.reach = 0
        """Tokens in the cache, forgotten ones included."""
        self.shared = 0
        """Tokens whose cells are those of the sequence that it was forked from."""
        self.given: Floats | None = None
        """The row of the next token, which the library has fed already; None: there is no such token."""
        self.recorded = False
        """Its rows of logits are kept in `Llama.scores`."""
        self._stale = False
        """The cache holds what was forgotten."""
        self._closed = False
        self._forks: WeakSet[LlamaSession] = WeakSet()
        sequences.hold(sequence, self)

    @property
    def can(self) -> Capabilities:
        can = self.sequences.capabilities(self, self.engine.longest - self.length)
        if self.given is not None:
            return replace(can, rows=1)  # a draft's rows would come with one that is not computed again
        # `Llama.scores` has one row for each position, so no two nodes of a draft may share one.
        return replace(can, branches=min(can.branches, 1)) if self.recorded else can

    @property
    def lacking(self) -> Sequence[int]:
        """The last committed tokens, where the cache lacks them: they are fed before the next pending ones."""
        return ()

    @property
    def owed(self) -> int:
        """How many committed tokens the cache lacks."""
        return len(self.lacking)

    @property
    def held(self) -> int:
        """Tokens that the cache is to hold: those that are committed, and one that the library has fed."""
        return self.length + (self.given is not None)

    @property
    def cells(self) -> int:
        """Cells of the context that hold its tokens, forgotten ones too; those it shares with its origin left out."""
        return max(self.reach, self.length) - self.shared

    def adopt(self, length: int) -> int:
        """Take over the first `length` tokens that stand in the sequence.

        Returns:
            The tokens taken: `length`, or 0 where the cache can't be shortened to that many and is emptied instead.
        """
        present = self.sequences.tokens_in(self.id)
        self.given = None
        self.drop()
        if present < length or (present > length and not self._shortens(length)):
            self.sequences.remove(self.id)
            length = present = 0
        self.length = length
        self._stale = present > length
        self.reach = present
        return length

    def adopt_given(self, length: int, row: Floats) -> None:
        """Take over `length` tokens that the library has fed, the last of which is the first that the run will feed.

        Args:
            length: tokens in the sequence.
            row: that of the last one.

        Raises:
            RuntimeError: there are not so many in the sequence.
        """
        if self.adopt(length) != length:
            raise RuntimeError(f"the cache doesn't hold the {length} tokens that the library has fed")
        self.length -= 1
        self.given = row

    def begin(self) -> Floats:
        """The token that the library has fed is fed by the run: it is committed. Returns its row."""
        row, self.given = self.given, None
        assert row is not None
        self.length += 1
        return row

    def give(self, row: Floats) -> None:
        """Undo `begin`: the last committed token is again one that the library has fed, with this row."""
        self.length -= 1
        self.given = row

    def cuts(self, length: int) -> bool:
        """Whether `adopt` takes over `length` tokens of those that stand in the sequence."""
        present = self.sequences.tokens_in(self.id)
        return present == length or (present > length and self._shortens(length))

    def _shortens(self, length: int) -> bool:
        """Whether what stands in the sequence can be shortened to `length` tokens."""
        return True

    def settle(self) -> None:
        """Bring the cache to exactly the committed tokens."""
        if self._closed:
            raise RuntimeError("this session is closed")
        if self.draft.tokens:
            self.keep(())
        self.trim()

    def trim(self) -> None:
        """Remove forgotten tokens from the cache; a draft that may still be kept stays."""
        if self._stale and not self.draft.tokens:
            if not self.sequences.remove(self.id, self.held):
                raise RuntimeError(f"llama.cpp can't remove the tokens from {self.held} on of sequence {self.id}")
            self._stale = False
            self.reach = self.held

    def branch(self, leaves: int) -> None:
        """Take a sequence id for each leaf."""
        self.ids = [self.id, *self.sequences.take(leaves - 1)]

    def share(self, n: int) -> None:
        """Give the first `n` tokens to every leaf."""
        for leaf in self.ids[1:]:
            self.sequences.copy(self.id, leaf, 0, n)

    def advance(self, pending: Sequence[int], draft: Draft = NO_DRAFT, below: list[list[int]] = ONE_LEAF) -> None:
        """A forward has put what was owed, these tokens and a draft into the cache."""
        self.length += len(pending)
        self.reach = self.length + len(draft)
        self.draft = draft
        self.below = below

    def keep(self, path: Sequence[int]) -> None:
        """Commit a path of the last draft. Raises ControllerError if it does not start at the root."""
        self.draft.check_path(path)
        if not self.draft.tokens:
            return
        kept = self.length + len(path)
        if len(self.ids) > 1:
            leaf = self.ids[self.below[(path[-1] if path else ROOT) + 1][0]]
            if leaf != self.id:
                self.sequences.remove(self.id, self.length)
                self.sequences.copy(leaf, self.id, self.length, kept)
            self.drop()
        self.length = kept
        self.draft = NO_DRAFT
        self._stale = True

    def rollback(self, n: int) -> None:
        """Forget n tokens. Raises ControllerError for more than there are."""
        if not 0 <= n <= self.length:
            raise ControllerError(f"can't roll back {n} of {self.length} tokens")
        if self.draft.tokens:
            self.keep(())
        self._forget(n)
        self.length -= n
        self._limit_shared(self.length)

    def _forget(self, n: int) -> None:
        """The last n tokens are to leave the cache."""
        self._stale = self._stale or n > 0

    def _limit_shared(self, length: int) -> None:
        """Only the first `length` tokens are in cells that this sequence shares with others."""
        for session in (self, *self._forks):
            session.shared = min(session.shared, length)

    def fork(self) -> Self:
        """An independent sequence; it shares the cells of the tokens that both have."""
        if self.draft.tokens:
            raise ControllerError("fork after keep: a draft's rows are not committed")
        self.settle()
        fork = type(self)(self.engine, self.sequences, self.sequences.take(1)[0])
        self.sequences.copy(self.id, fork.id)
        fork.length = self.length
        fork.reach = fork.shared = self.length - self.owed
        self._forks.add(fork)
        return fork

    def drop(self) -> None:
        """Forget the branches of a tree, and whatever else is not committed."""
        self.sequences.give_back(self.ids[:0:-1])
        self.ids = [self.id]
        self.draft = NO_DRAFT
        self._stale = True

    def undo(self, length: int) -> None:
        """Go back to the first `length` tokens after a forward that failed, here or in the rows of another sequence."""
        self.length = length
        self.drop()

    def close(self) -> None:
        """Give the sequence id back; nothing happens where the context is gone."""
        if self._closed or not self.sequences.context.open:
            return
        self.drop()
        self.sequences.release(self.id)
        for fork in self._forks:
            fork.shared = 0  # the cells are its own now
        self.length = 0
        self._closed = True
