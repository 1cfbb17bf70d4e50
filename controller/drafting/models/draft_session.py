"""The draft model's sequence in one run: what it was fed, what it has room for, what its forwards cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from ...core.decode import NO_DRAFT, Asking, Clock, Decode, Draft, Floats, Session, Step, common_prefix
from ..planning.meter import StepMeter


class DraftRoom(NamedTuple):
    """How many tokens the draft model can draft now, and why it can draft none."""

    nodes: int
    """Most drafted tokens."""
    problem: str | None
    """Why there is no room, and won't be later in this run; None where there is room."""


class DraftSession:
    """A sequence that follows the run's text: it is opened when first needed, and rolled back to what it shares.

    Args:
        open_session: Opens the sequence.
        name: The draft model's name, for messages.
        context: Most tokens that the draft model was made for.
        vocabulary: Length of the target's logits rows; longer rows of the draft model are shortened to it.
        meter: Is shown every forward.
    """

    def __init__(
        self, open_session: Callable[[], Session], *, name: str, context: int, vocabulary: int, meter: StepMeter
    ) -> None:
        self.name = name
        self.meter = meter
        self.fed: list[int] = []
        """The tokens in the draft model's cache."""
        self.clock = Clock()
        """The seconds of the draft model's last forward."""
        self._open_session = open_session
        self._context = context
        self._vocabulary = vocabulary
        self._session: Session | None = None
        self._draft = NO_DRAFT

    @property
    def session(self) -> Session:
        """The sequence itself. A run that never drafts opens none."""
        if self._session is None:
            self._session = self._open_session()
        return self._session

    @property
    def leaves(self) -> int:
        """Most leaves of a draft that one forward takes."""
        return self.session.can.branches

    def common(self, tokens: Sequence[int]) -> int:
        """How many of `tokens` are in the cache and can stay there; the last one is always fed, for its row."""
        return min(common_prefix(self.fed, tokens), len(tokens) - 1)

    def missing(self, tokens: Sequence[int]) -> int:
        """How many of `tokens` the next forward must feed."""
        return len(tokens) - self.common(tokens)

    def room(self, tokens: Sequence[int]) -> DraftRoom:
        """How many tokens can be drafted after `tokens`."""
        can = self.session.can
        largest = max(tokens[self.common(tokens) :])
        if largest >= can.vocabulary:
            return DraftRoom(0, f"has no token {largest}")
        nodes = min(can.rows - 1, can.free + len(self.fed) - len(tokens), self._context - len(tokens))
        if nodes < 1:
            return DraftRoom(0, f"has no room for more than {len(tokens)} tokens")
        return DraftRoom(nodes, None)

    def prepare(self, tokens: Sequence[int]) -> None:
        """Get ready to draft after `tokens`; a sequence that follows the text by itself needs nothing."""
        return None

    def decode(self, tokens: Sequence[int], draft: Draft = NO_DRAFT) -> Asking[Step]:
        """One forward of the draft model: what it lacks of `tokens`, then a draft.

        Args:
            tokens: The text, whose last token is fed in any case.
            draft: Verified after it; `keep` must follow.
        """
        session = self.session
        common = self.common(tokens)
        session.rollback(len(self.fed) - common)
        del self.fed[common:]
        pending = list(tokens[common:])
        self.fed += pending
        self._draft = draft
        context = session.length
        step = yield Decode(session, pending, draft, clock=self.clock)
        self.meter.note_forward(len(pending) + len(draft), self.clock.seconds, context)
        return step if session.can.vocabulary <= self._vocabulary else _NarrowStep(step, self._vocabulary)

    def keep(self, path: Sequence[int]) -> None:
        """Commit these nodes of the last draft, from the root down; forget its other nodes."""
        self.session.keep(path)
        self.fed += [self._draft.tokens[node] for node in path]

    def close(self) -> None:
        """Give the sequence's memory back, if it was opened."""
        if self._session is not None:
            self._session.close()


class _NarrowStep:
    """A step of a model whose vocabulary is padded further than the target's."""

    def __init__(self, step: Step, size: int) -> None:
        self._step = step
        self._size = size

    def logits(self, node: int) -> Floats:
        return self._step.logits(node)[: self._size]

    def hidden(self, node: int, layer: int) -> Floats:
        return self._step.hidden(node, layer)
