"""The text of one run: its tokens, where each came from, and which of them the session's cache holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..core.decode import Session
from ..core.trace import Closer, Source


@dataclass(frozen=True)
class Start:
    """Where a loop takes up a text."""

    tokens: list[int]
    """The text so far, the prompt included; the loop appends to it."""
    pending: list[int]
    """The last of `tokens`: those that the session's cache doesn't hold yet."""
    state: Any = None
    """The policy's state at the end of `tokens`; None = the policy starts here, and ends with the loop."""
    closer: Closer | None = None
    """Who has closed thinking in `tokens` already."""


class Transcript:
    """A run's tokens, with the policy's state and the source of each. Tokens can be appended, taken back and committed.

    Between two forwards the cache holds all of `tokens` but the last `len(pending)`. During a walk over a draft
    `path` lists the accepted nodes, whose tokens are in the cache and not committed yet.
    """

    def __init__(self, session: Session, start: Start, state: Any) -> None:
        self.session = session
        self.tokens = start.tokens
        """The whole text: prompt first."""
        self.pending = start.pending
        """Tokens for the next forward."""
        self.start = len(start.tokens)
        """Index of the first token of this run."""
        self.shown = self.start
        """Index of the first token that was not shown yet."""
        self.states: list[Any] = [state]
        """The policy's state before each generated token, and after the last. An exit restores that before its cue."""
        self.sources: list[Source] = []
        """Where each generated token came from."""
        self.own_from = 0
        """The tokens from here on were not fed: 0 while the run has fed none, else the index after the last fed."""
        self.path: list[int] = []
        """Accepted nodes of the draft that is walked."""
        self.committed = False
        """The draft that is walked is gone from the cache: no other node of it can be followed."""
        self.queue: list[int] = []
        """Forced tokens that wait until the row before them was read."""

    def begin_walk(self) -> None:
        """Begin a walk: the forward has read what was pending."""
        self.pending = []
        self.path = []
        self.committed = False

    def append(self, token: int, state: Any, source: Source) -> None:
        """Add a token, the policy's state after it, and where it came from."""
        self.tokens.append(token)
        self.states.append(state)
        self.sources.append(source)

    def force(self, tokens: Sequence[int]) -> None:
        """Add tokens that no policy drew; the policy's state stays as it is."""
        for token in tokens:
            self.append(token, self.states[-1], "forced")
            self.own_from = len(self.tokens)

    def state_before(self, index: int) -> Any:
        """The policy's state before token `index`, an absolute index."""
        return self.states[index - self.start]

    def commit(self) -> None:
        """Keep the accepted nodes in the cache, and drop the others."""
        self.session.keep(self.path)
        self.path = []
        self.committed = True

    def take_back(self, first: int) -> None:
        """Remove the tokens from `first` on. Earlier tokens that the cache lacks become pending again."""
        self.commit()
        # During a walk nothing is pending, and the token that was just appended is not in the cache.
        fed = len(self.tokens) - max(1, len(self.pending))
        self.pending = self.tokens[fed:first]
        self.queue = []
        if first < fed:
            self.session.rollback(fed - first)
        del self.tokens[first:]
        del self.states[first - self.start + 1 :]
        del self.sources[first - self.start :]
        forced = [i for i, source in enumerate(self.sources, 1) if source == "forced"]
        self.own_from = self.start + forced[-1] if forced else 0
