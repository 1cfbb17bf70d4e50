"""Sequences that later runs of the same key begin with, so that what two prompts have in common is fed once.

They are those of runs under way and of each key's last run: the choices of a request share its prompt, and a
conversation goes on where it was. More isn't kept, since llama.cpp computes every forward over all cells that are in
use. Nobody else's run begins with them, so no time tells what another key has asked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from reasonctl.controller import ControllerError, Decoding, Engine, IdleRun, Need, Session, Trace
from reasonctl.controller.core import common_prefix

LEAST = 32
"""Fewest tokens that are worth taking over."""


@dataclass(eq=False)
class Text:
    """One run's text, and the sequence that holds it."""

    owner: str
    """The key of its client."""
    prompt: Sequence[int]
    """Its prompt."""
    trace: Trace
    """Its record, whose tokens follow the prompt."""
    needs: Sequence[Need] = ()
    """The room that the run may take; none once it is over."""
    session: Session | None = field(default=None, init=False)
    """The sequence; None before the run begins."""
    cached: int = field(default=0, init=False)
    """Tokens of the prompt that weren't fed again."""

    @property
    def length(self) -> int:
        """Tokens of the sequence."""
        return 0 if self.session is None else self.session.length

    @property
    def tokens(self) -> list[int]:
        """The tokens that stand in the sequence and stay."""
        return [*self.prompt, *self.trace.tokens][: self.length]


class Prefixes:
    """Gives runs their sequences. After `shares` it belongs to the thread that drives the runs."""

    def __init__(self, engine: Engine, most_tokens: int) -> None:
        """Nothing is kept yet.

        Args:
            engine: The model's.
            most_tokens: Tokens of all sequences that are kept of runs that are over; 0: none is.
        """
        self._engine = engine
        self._most = most_tokens
        self._kept: dict[str, Text] = {}
        """The last run that is over of each key, the one that was used least recently first."""
        self._running: list[Text] = []
        """Of runs under way."""
        session = engine.session()
        can = session.can
        session.close()
        self._able = can.rollback and can.fork and not can.checkpoints

    def shares(self, prompt: Sequence[int]) -> bool:
        """Whether runs of this prompt take it over from each other."""
        return self._able and len(prompt) > LEAST

    def run(self, text: Text, loop: Callable[[Session], Decoding]) -> Decoding:
        """A run on a sequence that holds what another one of its owner's has in common with it.

        Args:
            text: The run's text; its sequence is set when the run starts.
            loop: Makes the run on a sequence that may hold the beginning of the prompt.
        """
        text.session = session = self._begin(text)
        self._running.append(text)
        whole = False
        try:
            result = yield from loop(session)
            whole = True
            return result
        except GeneratorExit:  # the client has gone; its next request may begin alike
            whole = True
            raise
        finally:
            self._running.remove(text)
            self._keep(text, session, whole)

    def apart(self, own: IdleRun) -> IdleRun:
        """A run of the exit rule's own, on a sequence of its own; what is kept gives way to it as to a client's run."""

        def loop() -> Decoding:
            text = Text("", (), Trace(), own.needs)
            self._make_room(own.needs)
            self._running.append(text)
            try:
                yield from own.loop
                return None
            finally:
                self._running.remove(text)

        return IdleRun(loop(), own.needs)

    def close(self) -> None:
        """Give the memory of all that is kept back."""
        while self._kept:
            self._drop_oldest()

    def _begin(self, text: Text) -> Session:
        """The sequence of a run that starts: one that is kept, a copy of one that is used, or an empty one."""
        source, common = self._longest(text)
        if source is not None and source is self._kept.get(text.owner):
            del self._kept[text.owner]
            self._make_room(text.needs)
            session, source.session = source.session, None
        else:
            self._make_room(text.needs)
            session = self._copy(source)
        if session is None:
            return self._engine.session()
        text.cached = common
        session.rollback(session.length - common)
        return session

    def _longest(self, text: Text) -> tuple[Text | None, int]:
        """The text of the same owner that has most in common with a prompt, and how much; at least `LEAST` tokens.

        The prompt's last token is always fed: its row is wanted.
        """
        best, most = None, LEAST - 1
        if not self.shares(text.prompt):
            return None, 0
        for one in (*self._kept.values(), *self._running):
            if one.owner == text.owner:
                common = common_prefix(one.tokens, text.prompt[:-1])
                if common > most:
                    best, most = one, common
        return best, most

    @staticmethod
    def _copy(source: Text | None) -> Session | None:
        """A copy of a sequence that is used; None where it holds a draft just now."""
        try:
            return None if source is None or source.session is None else source.session.fork()
        except ControllerError:
            return None

    def _keep(self, text: Text, session: Session, whole: bool) -> None:
        """Keep the sequence of a run that is over, or close it."""
        text.needs = ()
        length = len(text.tokens)
        if not whole or not self._able or not LEAST <= length <= self._most:
            session.close()
            return
        session.set_aside()
        self._drop(self._kept.pop(text.owner, None))
        self._kept[text.owner] = text
        while self._tokens() > self._most:
            self._drop_oldest()

    def _make_room(self, needs: Sequence[Need]) -> None:
        """Close what is kept where runs need its room."""
        wanted = [*needs, *(need for one in self._running for need in one.needs)]
        here = [need for need in wanted if need.engine is self._engine]
        tokens, sessions = sum(need.tokens for need in here), sum(need.sessions for need in here)
        while self._kept and (
            tokens + self._tokens() > self._engine.room or sessions + len(self._kept) > self._engine.most_sessions
        ):
            self._drop_oldest()

    def _tokens(self) -> int:
        """Tokens of all that is kept."""
        return sum(one.length for one in self._kept.values())

    def _drop_oldest(self) -> None:
        self._drop(self._kept.pop(next(iter(self._kept))))

    @staticmethod
    def _drop(text: Text | None) -> None:
        if text is not None and text.session is not None:
            text.session.close()
