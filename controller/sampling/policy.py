"""The contract of a policy: it chooses one token from one row of logits, and draws it with `Row.draw` (`draw.py`).

A policy is pure: state in, state out.

`Policy` says everything that the loop, the drafters and the backends may ask. `CompositePolicy` answers for the parts
that it is made of; `PolicyWrapper` passes everything on to one inner policy, and `StatefulWrapper` keeps a
state next to that policy's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from typing import Any, NamedTuple

from ..core.decode import Decode, Step
from ..core.errors import ControllerError
from ..core.text_form import shown
from ..core.tokenizer import Tokenizer
from ..core.trace import Trace
from ..thinking.markers import Phase
from .candidates import Candidates
from .draw import Row, RunContext
from .stage import Stage


class Policy(ABC):
    """How tokens are chosen, with explicit state: a rejected draft or a retracted cue leaves no trace in it.

    A policy of your own needs `start` and `step`. Everything else has a default that fits a policy which reads the
    row's logits and nothing more.
    """

    needs_forwards: bool = False
    """The policy asks for forwards of its own, see `prepare`."""
    phased: bool = False
    """The policy needs to know where thinking ends; a run without thinking markers is refused."""
    reads_text: bool = False
    """The policy reads the run's tokenizer; a model attached without one is refused."""
    one_answer: bool = False
    """What follows the thoughts is one text to it, so that an opening marker in it opens no thinking."""
    suppresses_cues: bool = False
    """The policy keeps words away while thinking that exit rules wait for."""

    @abstractmethod
    def start(self) -> Any:
        """The state before the first token of a run."""

    @abstractmethod
    def step(self, state: Any, row: Row) -> tuple[Any, int]:
        """The state after this row's token, and the token."""

    def samples(self, phase: Phase) -> bool:
        """Whether `step` draws from `distribution` in this phase of a run.

        False where it takes the most probable token, or where nobody knows what it does (the default): then a draft
        model proposes its own most probable tokens. Either way drafts change no distribution, only the speed.
        """
        return False

    def distribution(self, state: Any, row: Row) -> Candidates:
        """What `step` would draw from at this row, without drawing.

        A policy that takes the largest leaves one candidate, the token that it would take.

        Raises:
            ControllerError: the policy doesn't say (the default).
        """
        raise ControllerError(f"{type(self).__name__} doesn't say its distribution; define its method `distribution`")

    def for_drafts(self) -> Policy:
        """The policy for a draft model's rows: this one without the parts that must see the target's rows only."""
        return self

    def prepare(self, state: Any, row: Row) -> Generator[Decode, Step, Any]:
        """Ask for the forwards that `step` depends on; the loop calls it where `needs_forwards`.

        Yields:
            Decodes, each answered by its Step.

        Returns:
            The state for `step`.
        """
        return state
        yield  # a generator

    def end(self, state: Any) -> None:
        """Give back what `prepare` holds for a run; called once, when the run is over."""
        return None

    def finish(self, state: Any, trace: Trace) -> None:
        """Add to the record of a finished run; `state` is the one after the last token shown."""
        return None

    def layers(self, depth: int) -> tuple[int, ...]:
        """Blocks whose output is read at every row (`row.hidden`), in a model of `depth` blocks."""
        return ()

    def check(self, model: Any) -> list[str]:
        """Compare the policy with a loaded model (`backends.Model`).

        Returns:
            Warnings, one line each.

        Raises:
            ControllerError: the policy was made for another model.
        """
        return []

    def check_run(self, context: RunContext) -> None:
        """Raises ControllerError, before any forward, for a run that can't have this policy."""
        return None

    def extra_sequences(self, tokenizer: Tokenizer, prompt: Sequence[int]) -> tuple[int, ...]:
        """Sequences that the policy keeps besides the run's own, as the number of the prompt's tokens on each.

        They share the room of the run's context.
        """
        return ()

    def explain(self) -> list[str]:
        """What the policy does, a line for each of its parts in order."""
        return [str(self)]


class CompositePolicy(Policy):
    """A policy made of stages and policies. It asks its parts for everything that depends on no state."""

    def __init__(self, parts: Sequence[Policy | Stage]) -> None:
        self.parts = tuple(parts)
        # A flag that a subclass sets holds whatever the parts say.
        self.needs_forwards = self.needs_forwards or any(part.needs_forwards for part in self.parts)
        self.phased = self.phased or any(part.phased for part in self.parts)
        self.reads_text = self.reads_text or any(part.reads_text for part in self.parts)
        self.one_answer = self.one_answer or any(part.one_answer for part in self.parts)
        self.suppresses_cues = self.suppresses_cues or any(part.suppresses_cues for part in self.parts)

    def layers(self, depth: int) -> tuple[int, ...]:
        return tuple(dict.fromkeys(block for part in self.parts for block in part.layers(depth)))

    def check(self, model: Any) -> list[str]:
        return [warning for part in self.parts for warning in part.check(model)]

    def check_run(self, context: RunContext) -> None:
        for part in self.parts:
            part.check_run(context)

    def extra_sequences(self, tokenizer: Tokenizer, prompt: Sequence[int]) -> tuple[int, ...]:
        return tuple(length for part in self.parts for length in part.extra_sequences(tokenizer, prompt))


class PolicyWrapper(CompositePolicy):
    """A policy around another one, which it asks everything. A subclass overrides what it does differently.

    The state is the inner policy's; one that keeps a state of its own is a `StatefulWrapper`.
    """

    def __init__(self, inner: Policy, *stages: Stage) -> None:
        super().__init__((*stages, inner))
        self.inner = inner

    def start(self) -> Any:
        return self.inner.start()

    def step(self, state: Any, row: Row) -> tuple[Any, int]:
        return self.inner.step(state, row)

    def samples(self, phase: Phase) -> bool:
        return self.inner.samples(phase)

    def distribution(self, state: Any, row: Row) -> Candidates:
        return self.inner.distribution(state, row)

    def for_drafts(self) -> Policy:
        return self.inner.for_drafts()

    def prepare(self, state: Any, row: Row) -> Generator[Decode, Step, Any]:
        return (yield from self.inner.prepare(state, row))

    def end(self, state: Any) -> None:
        self.inner.end(state)

    def finish(self, state: Any, trace: Trace) -> None:
        self.inner.finish(state, trace)

    def explain(self) -> list[str]:
        return self.inner.explain()

    def __str__(self) -> str:
        return str(self.inner)


class WrapperState(NamedTuple):
    """The state of a wrapper that has one of its own."""

    inner: Any
    """The inner policy's."""
    own: Any
    """The wrapper's."""


class StatefulWrapper(PolicyWrapper):
    """A policy around another one, with a state of its own next to the inner one's.

    A subclass defines `begin` and `step`, and `step` takes and gives a `WrapperState`.
    """

    @abstractmethod
    def begin(self) -> Any:
        """The wrapper's own state before the first token of a run."""

    def start(self) -> WrapperState:
        return WrapperState(self.inner.start(), self.begin())

    def distribution(self, state: WrapperState, row: Row) -> Candidates:
        return self.inner.distribution(state.inner, row)

    def prepare(self, state: WrapperState, row: Row) -> Generator[Decode, Step, WrapperState]:
        return state._replace(inner=(yield from self.inner.prepare(state.inner, row)))

    def end(self, state: WrapperState) -> None:
        self.inner.end(state.inner)

    def finish(self, state: WrapperState, trace: Trace) -> None:
        self.inner.finish(state.inner, trace)


def require_policy(policy: object) -> None:
    """Raises ControllerError for what is no Policy, before a run fails on a method that it lacks."""
    if isinstance(policy, str):
        text = shown(policy, 60)
        raise ControllerError(f"policy is the text {text}; give parse_policy({text})")
    if not isinstance(policy, Policy):
        raise ControllerError(
            f"policy is a {type(policy).__name__}; make it a subclass of reasonctl.controller.Policy "
            "(start and step are all that it must define)"
        )
