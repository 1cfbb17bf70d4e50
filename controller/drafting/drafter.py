"""The contract of drafting: a `Drafter` is what a user configures, a `Drafting` is what one run holds.

A draft never changes the distribution of what is emitted, only the speed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Self

from ..core.decode import Asking, Clock, Draft, Engine, Need, Session
from ..core.randomness import Keys
from ..core.tokenizer import Tokenizer
from ..sampling.draw import RunContext
from ..sampling.policy import Policy
from ..thinking.markers import Phase

FED_AGAIN = (
    "drafts don't always pay here: this model's state takes no token back, so accepted tokens are fed again after a "
    "rejection"
)
"""Why a plan doesn't draft where it would on another cache."""


USUAL_SIZE = 8
"""Most drafted tokens a step of a drafter that doesn't say."""


@dataclass(frozen=True)
class Target:
    """The run that is drafted for: what a drafter may consult."""

    session: Session
    """The run's sequence on the target model."""
    tokenizer: Tokenizer
    """The target model's."""
    keys: Keys
    """The run's randomness."""
    policy: Policy
    """How the run samples."""
    warnings: list[str] = field(default_factory=list)
    """A drafter adds what it can't do here; the trace shows it."""
    context: RunContext = field(default_factory=RunContext)
    """What stays the same during the run."""
    phase: Callable[[], Phase] = lambda: "answer"
    """Gives the phase that the run is in now."""
    clock: Clock = field(default_factory=Clock)
    """The seconds of the run's last forward."""

    def is_prefill(self, tokens: Sequence[int]) -> bool:
        """Whether the next forward feeds a prompt or a suffix; its price says nothing about a step.

        The target of an inner drafter may lag by one token more than a run's own.
        """
        return self.session.length < len(tokens) - 2

    def note_fed_again(self) -> None:
        """Drafts would pay here if rejections cost nothing more; the trace says so once."""
        if FED_AGAIN not in self.warnings:
            self.warnings.append(FED_AGAIN)

    def fits(self, tokens: Sequence[int]) -> int:
        """Most drafted tokens that the forward after `tokens` takes. A tree keeps to it before its first draw."""
        return self.session.can.drafted(len(tokens) - self.session.length)


class Drafting(ABC):
    """The drafts of one run."""

    @abstractmethod
    def propose(self, tokens: Sequence[int], room: int) -> Asking[Draft]:
        """Propose what may come after `tokens`; may ask for forwards of its own.

        The shape of the draft must depend on the past only: whether another sibling is drawn must not depend on the
        token of the last draw.

        A draft with more nodes than the forward takes is dropped whole. If the number of nodes depends on the drawn
        tokens, dropping would change the distribution of what is emitted. Such a drafter must keep to `Target.fits`.

        Args:
            tokens: The run's text so far, prompt included.
            room: Most drafted tokens on a path.

        Returns:
            The draft; NO_DRAFT decodes plainly.
        """

    def observe(self, draft: Draft, accepted: Sequence[int]) -> None:
        """Learn the outcome of the last proposal, which may be empty. Default: nothing.

        Args:
            draft: What was verified.
            accepted: The accepted nodes, from the root down.
        """
        return None

    def close(self) -> None:
        """End the run and give back what it held. Default: nothing."""
        return None


class Drafter(ABC):
    """What a user configures; all runs of a controller share it."""

    @property
    def size(self) -> int:
        """Most drafted tokens a step; a cache with states may make room to take so many back. Default: USUAL_SIZE."""
        return USUAL_SIZE

    @abstractmethod
    def start(self, target: Target) -> Drafting:
        """The drafts of one run.

        Raises:
            ControllerError: It can't draft for this target.
        """

    def needs(self, engine: Engine, length: int) -> tuple[Need, ...]:
        """The most room that the drafts of one run take besides the run's own tokens. Default: none.

        Args:
            engine: The target's.
            length: Most tokens of the run, its prompt included. A chain ends within them; a tree may need more.
        """
        return ()

    def forget(self) -> None:
        """Draft no more from what earlier runs wrote; what was learnt of acceptance and costs stays.

        Does nothing by default, for a drafter that remembers no text.
        """
        return None


class Stateless(Drafter, Drafting):
    """A drafter that keeps nothing of a run, so that all runs share it; `propose` is left to write."""

    def start(self, target: Target) -> Self:
        return self
