"""Drafters: where proposed tokens come from. Proposing never changes the law, only the speed."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, Self

from ..core.decode import Clock, Decode, Draft, Session, Step
from ..core.randomness import Keys
from ..core.tokenizer import Tokenizer
from ..sampling.policy import Policy
from ..sampling.row import RunContext
from ..thinking.markers import Phase


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
    frame: RunContext = field(default_factory=RunContext)
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
