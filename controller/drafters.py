"""Drafters: where proposed tokens come from. Proposing never changes the law, only the speed."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, Self

from .decode import NO_DRAFT, Clock, Decode, Draft, Session, Step
from .errors import ControllerError
from .policy import Frame, Phase, Policy
from .randomness import Keys
from .thinking import Tokenizer


@dataclass(frozen=True)
class Target:
    """The run that is drafted for: what a drafter may consult when it starts.

    warnings: where it says what it can't do here. frame: the run's. phase: asks where the run stands now.
    clock: what the run's last forward took.
    """

    session: Session
    tokenizer: Tokenizer
    keys: Keys
    policy: Policy
    warnings: list[str] = field(default_factory=list)
    frame: Frame = field(default_factory=Frame)
    phase: Callable[[], Phase] = lambda: "answer"
    clock: Clock = field(default_factory=Clock)

    def behind(self, tokens: Sequence[int]) -> bool:
        """A prompt or a suffix is yet to be fed: no step like others. A middle level may lag by one token."""
        return self.session.length < len(tokens) - 2

    def fits(self, tokens: Sequence[int]) -> int:
        """Most drafted tokens that the forward behind `tokens` takes; trees keep to it before anything is drawn."""
        return self.session.can.drafted(len(tokens) - self.session.length)


class Drafting(Protocol):
    """One run's drafter."""

    def propose(self, tokens: Sequence[int], room: int) -> Generator[Decode, Step, Draft]:
        """A draft of depth `room` at most behind `tokens`; NO_DRAFT decodes plainly. May ask for forwards of its own.

        A draft of more nodes than fit the forward is dropped whole; where their number depends on what was drawn it
        must keep to `Target.fits`, or the law would lean away from what is dropped.

        It may depend on the past only: whether another sibling is drawn must not depend on the token of the last draw.
        """

    def observe(self, draft: Draft, accepted: Sequence[int]) -> None:
        """What became of the last proposal, an empty one too: the nodes accepted, from the root down."""

    def close(self) -> None:
        """The run is over."""


class Drafter(Protocol):
    """What a user configures; shared by all runs of a controller."""

    def start(self, target: Target) -> Drafting:
        """The drafter of one run. Raises ControllerError if it can't draft for this target."""


def forget(drafter: Drafter | None) -> None:
    """What earlier runs wrote is drafted from no more; what was learnt of acceptance and costs stays."""
    clear = getattr(drafter, "forget", None)
    if clear is not None:
        clear()


class Stateless:
    """A drafter that keeps nothing of a run: all runs share it."""

    def start(self, target: Target) -> Self:
        return self

    def observe(self, draft: Draft, accepted: Sequence[int]) -> None:
        pass

    def close(self) -> None:
        pass


@dataclass
class PromptLookup(Stateless):
    """The continuation of the latest earlier occurrence of the last n-gram, longest n first.

    Saxena 2023 (prompt lookup decoding), with the most recent match instead of the first.
    Deterministic, so that a drafted run gives the tokens of a plain run with the same keys.
    """

    longest: int = 3
    shortest: int = 1
    size: int = 8

    def __post_init__(self) -> None:
        if not 1 <= self.shortest <= self.longest:
            raise ControllerError(
                f"n-gram lengths are {self.shortest}..{self.longest}; they need 1 <= shortest <= longest"
            )
        if self.size < 1:
            raise ControllerError(f"draft size is {self.size}; it must be at least 1")

    def propose(self, tokens: Sequence[int], room: int) -> Generator[Decode, Step, Draft]:
        found = self._continuation(list(tokens), min(self.size, room))
        return Draft.chain(found) if found else NO_DRAFT
        yield  # a generator that needs no forward of its own

    def _continuation(self, tokens: list[int], size: int) -> list[int]:
        if size < 1 or not tokens:
            return []
        best, found = self.shortest - 1, 0
        last = tokens[-1]
        for end in range(len(tokens) - 1, 0, -1):
            if tokens[end - 1] != last:
                continue
            n = 1
            while n < min(self.longest, end) and tokens[end - 1 - n] == tokens[-1 - n]:
                n += 1
            if n > best:
                best, found = n, end
                if n == self.longest:
                    break
        return tokens[found : found + size] if found else []
