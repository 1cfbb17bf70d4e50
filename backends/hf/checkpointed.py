"""A sequence whose cache holds a state that takes no token back: it is copied at checkpoints, and fed again from there.

`states.py` copies and restores the cache's layers, and `../checkpoints.py` says which tokens the state lacks then.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from reasonctl.controller import NO_DRAFT, ControllerError, Decode, Draft

from ..checkpoints import Checkpoint
from .forward import HFStep
from .session import HFSession
from .states import Saved, restore, save, size


class HFCheckpointedSession(HFSession):
    """A sequence that goes back no further than its last checkpoint.

    `length` counts the committed tokens. The last of them may be owed: they were taken in by a state that a rollback
    or a rejected draft has restored since, and are fed in front of the next pending ones.
    """

    packs = False

    def __init__(self, *given: Any) -> None:
        """As `HFSession`."""
        super().__init__(*given)
        self._book = Checkpoint()
        self._saved: Saved = {}
        """The states at the checkpoint; forks share them, as nothing writes into them."""
        self._before: Saved = {}
        """The states before the draft that isn't kept yet and the last pending token, which is `_root`."""
        self._root = 0

    @property
    def least(self) -> int:
        """Fewest tokens that a rollback can leave."""
        return self._book.least(self.length)

    @property
    def owed(self) -> int:
        """Committed tokens that the next forward feeds again."""
        return len(self._book.owed)

    @property
    def checkpoint_bytes(self) -> int:
        """Bytes of the copied states."""
        return size(self._saved) + (0 if self._before is self._saved else size(self._before))

    def checkpoint(self) -> None:
        """Let later rollbacks reach the present length; they may no longer reach shorter ones."""
        self._book.wanted = self._book.at != self.length

    def feed(self, request: Decode) -> HFStep:
        """Run one forward of this sequence, and before it one for what must be in the state when that is copied."""
        self.check(request)
        book, pending = self._book, request.pending
        if book.wanted:
            self.settle()
            self._saved = self._copied_states()
            book.taken(self.length)
        if request.draft.tokens:
            # A rejection feeds only this last token and the accepted ones again.
            pending = pending[-1:]
            if book.owed or len(request.pending) > 1:
                self._advance(request.pending[:-1])
            self._before = self._saved if book.at == self.length else self._copied_states()
            self._root = pending[0]
        return self._advance(pending, request.draft, request.layers)

    def settle(self) -> None:
        """Make the cache hold all committed tokens."""
        self.keep(())
        if self._book.owed:
            self._advance(())

    def _advance(self, pending: Sequence[int], draft: Draft = NO_DRAFT, layers: tuple[int, ...] = ()) -> HFStep:
        """Feed what is owed, then these tokens; one at a time where the state takes no more."""
        tokens = [*self._book.owed, *pending]
        self.length -= len(self._book.owed)
        if self.length and not self.model_forward.continues_several:
            for token in tokens[:-1]:
                self._run([token], NO_DRAFT, ())
            tokens = tokens[-1:]
        step = self._run([*tokens, *draft.tokens], draft, layers)
        self._book.commit(pending)
        return step

    def keep(self, path: Sequence[int]) -> None:
        """Commit a path of the last draft. Raises ControllerError if it does not start at the root."""
        draft = self._draft
        if not path and not draft.tokens:
            return
        draft.check_path(path)
        accepted = [draft.tokens[node] for node in path]
        if len(accepted) == len(draft.tokens):
            self._book.commit(accepted)
        else:
            self._restore(self._before, 1 + len(draft.tokens))
            self._book.reject([self._root], accepted)
        self._before = {}
        self.length += len(accepted)
        self._draft = NO_DRAFT

    def rollback(self, n: int) -> None:
        """Forget n tokens. Raises ControllerError for more than were committed since the checkpoint."""
        if not 0 <= n <= self.length:
            raise ControllerError(f"can't roll back {n} of {self.length} tokens")
        self.keep(())
        fed = self.length - len(self._book.owed)
        if self._book.rollback(self.length, n):
            self._restore(self._saved, fed - self.least)
        self.length -= n

    def undo(self, length: int) -> None:
        """Do nothing: nobody knows what a failed forward left of a state, and its sequence can't go on.

        Such sequences share no forward, so it is the sequence of the run that ends with the failure.
        """
        return

    def fork(self) -> HFCheckpointedSession:
        """An independent sequence with the same checkpoint."""
        made = super().fork()
        assert isinstance(made, HFCheckpointedSession)
        made._book, made._saved = self._book.fork(), self._saved
        return made

    def close(self) -> None:
        """Give the memory of the cache and of the copies back."""
        super().close()
        self._book, self._saved, self._before = Checkpoint(), {}, {}

    @torch.inference_mode()
    def _copied_states(self) -> Saved:
        return save(self.cache)

    @torch.inference_mode()
    def _restore(self, saved: Saved, n: int) -> None:
        """Put the cache back by the n tokens that it holds more than the copies do."""
        restore(self.cache, saved, n)
