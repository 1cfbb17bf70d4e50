"""Where a sequence can return to whose state takes no token back, and the tokens that its state lacks afterwards.

A recurrent state is copied at a checkpoint. A rollback restores the copy, and the tokens between the checkpoint and
the new length are owed: they are fed again in front of the next pending ones. So results depend on no checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from reasonctl.controller import ControllerError


@dataclass
class Checkpoint:
    """The bookkeeping of one sequence. The states themselves are the backend's, which copies and restores them.

    >>> book = Checkpoint()
    >>> book.taken(10)
    >>> book.commit([5, 6, 7])
    >>> book.rollback(13, 1), book.owed
    (True, [5, 6])
    >>> book.rollback(12, 2), book.owed
    (False, [])
    """

    at: int | None = None
    """Tokens that the copied state holds; None: no state was copied."""
    since: list[int] = field(default_factory=list)
    """Tokens that were committed after it."""
    owed: list[int] = field(default_factory=list)
    """The last committed tokens, where the state doesn't hold them."""
    wanted: bool = False
    """A checkpoint was asked for. It is made before the next forward, once nothing is owed."""

    def least(self, length: int) -> int:
        """Fewest tokens that a rollback can leave of `length` committed ones."""
        return length - len(self.owed) if self.at is None else self.at

    def taken(self, length: int) -> None:
        """The state was copied at `length` committed tokens, and the copy before it was freed."""
        self.at = length
        self.since = []
        self.wanted = False

    def commit(self, tokens: Sequence[int]) -> None:
        """The state holds everything that was owed, and then these tokens, which are committed."""
        self.owed = []
        if self.at is not None:
            self.since += tokens

    def reject(self, fed: Sequence[int], accepted: Sequence[int]) -> None:
        """Some of a draft was rejected: the state before its forward was restored.

        Args:
            fed: The pending tokens of the forward, committed already.
            accepted: The draft's tokens that are committed now.
        """
        self.owed = [*fed, *accepted]
        if self.at is not None:
            self.since += accepted

    def rollback(self, length: int, n: int) -> bool:
        """Forget the last n of `length` committed tokens.

        Returns:
            Whether the copied state must be restored; `owed` is what it lacks.

        Raises:
            ControllerError: The rollback goes back further than the checkpoint.
        """
        if length - n < self.least(length):
            raise ControllerError(
                f"can't roll back {n} of {length} tokens: the last checkpoint is at {self.least(length)}; "
                "ask for a checkpoint where a rollback may end"
            )
        if n == 0:
            return False
        self.wanted = False
        del self.since[max(0, len(self.since) - n) :]
        if n <= len(self.owed):
            del self.owed[len(self.owed) - n :]
            return False
        self.restored()
        return True

    def restored(self) -> None:
        """The copied state is restored; it lacks what was committed since."""
        self.owed = list(self.since)

    def fork(self) -> Checkpoint:
        """The same for an independent sequence, which shares the copied state."""
        return Checkpoint(self.at, list(self.since), list(self.owed), self.wanted)
