"""Sessions of models some of whose layers have a window (`swa_full=False`): cells that it has left are overwritten.

A rollback is exact as long as the windows still hold what they saw there, which llama.cpp tells: a context has more
cells than one window, so it takes a while until cells are overwritten.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Self

from reasonctl.controller import Capabilities, ControllerError, Engine

from .sequences import Sequences
from .session import LlamaSession


class WindowedSession(LlamaSession):
    """A sequence of whose first tokens some layers have no cells.

    What it forgets leaves the cache at once: llama.cpp overwrites what the last token's window doesn't see.
    """

    def __init__(self, engine: Engine, sequences: Sequences, sequence: int) -> None:
        super().__init__(engine, sequences, sequence)
        self._joined = False
        """Its windows are in cells that another sequence has too."""

    @property
    def can(self) -> Capabilities:
        return replace(super().can, branches=1)  # each leaf of a tree would hold all cells of the windows

    @property
    def least(self) -> int:
        """Fewest tokens that a rollback can leave."""
        first = self.sequences.first_in(self.id)
        return 0 if first <= 0 else first + self.sequences.context.cache.window - 1

    def adopt(self, length: int) -> int:
        """Take over the first `length` tokens that stand in the sequence.

        Returns:
            The tokens taken: `length`, or 0 where the windows have lost what they saw there.
        """
        taken = super().adopt(length)
        self.trim()
        return taken

    def _shortens(self, length: int) -> bool:
        return length >= self.least

    def settle(self) -> None:
        """Bring the cache to exactly the committed tokens."""
        super().settle()
        self._check(0)

    def trim(self) -> None:
        """Remove forgotten tokens from the cache, and take cells of its own for the windows."""
        super().trim()
        if self._joined and not self.draft.tokens:
            self.sequences.separate(self.id)
            self._joined = False

    def keep(self, path: Sequence[int]) -> None:
        """Commit a path of the last draft. Raises ControllerError if it does not start at the root."""
        super().keep(path)
        super().trim()

    def _forget(self, n: int) -> None:
        if n:
            self._check(n)
        super()._forget(n)

    def rollback(self, n: int) -> None:
        """Forget n tokens. Raises ControllerError where the windows have lost what they saw there."""
        super().rollback(n)
        super().trim()

    def _check(self, n: int) -> None:
        if self.length - n < self.least:
            raise ControllerError(
                f"can't go on from {self.length - n} tokens: layers with a window of "
                f"{self.sequences.context.cache.window} tokens have overwritten what they saw there; "
                "load the model with swa_full=True"
            )

    def fork(self) -> Self:
        """An independent sequence; before its first forward it copies the windows."""
        fork = super().fork()
        fork._joined = self.length > 0
        return fork
