"""The contract of a policy: from one row of the target's logits to one token. Pure: state in, state out.

Owns the row that a policy looks at and the draw; the laws are chains of stages (`chain.py`).
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ..core.decode import Decode, Step
from ..core.trace import Trace
from .row import Row, RunContext

if TYPE_CHECKING:
    from ..core.tokenizer import Tokenizer


class Policy(Protocol):
    """A sampling law with explicit state: what a rejected draft saw leaves no trace.

    A policy that needs a forward of its own has `asks = True` and two more methods: `prepare(state, row)`, a generator
    that yields Decodes and returns the state for `step`; and `end(state)`, called once when the run is over.
    One that reads `row.hidden` has `layers(depth)`, the blocks that it reads in a model of so many; one that was made
    for a model has `check(model)`, which gives warnings, and raises ControllerError for another model.
    """

    def start(self) -> Any:
        """State before the first token of a run."""

    def step(self, state: Any, row: Row) -> tuple[Any, int]:
        """The token at this row, and the state after it."""


def asks(policy: Any) -> bool:
    """Whether a policy asks for forwards of its own."""
    return bool(getattr(policy, "asks", False))


def suppresses_cues(policy: Any) -> bool:
    """Whether a policy keeps the words away that exit rules wait for."""
    return bool(getattr(policy, "suppresses_cues", False))


def prepared(policy: Any, state: Any, row: Row) -> Generator[Decode, Step, Any]:
    """The state for `policy.step`, after the forwards that the policy asks for."""
    return (yield from policy.prepare(state, row)) if asks(policy) else state


def check_run(policy: Any, frame: RunContext) -> None:
    """Raises ControllerError, before any forward, if a run can't have this policy; few policies can be asked."""
    if hasattr(policy, "check_run"):
        policy.check_run(frame)


def finish(policy: Any, state: Any, trace: Trace) -> None:
    """Let a policy that has something to say about a finished run say it; `state` is the one after the last token."""
    if hasattr(policy, "finish"):
        policy.finish(state, trace)


def end(policy: Any, state: Any) -> None:
    """Give back what a policy held for a run."""
    if asks(policy):
        policy.end(state)


def layers_of(policies: Iterable[Any], depth: int) -> tuple[int, ...]:
    """Blocks that policies or stages read at every row, each once; () for those that say nothing."""
    found = (block for policy in policies if hasattr(policy, "layers") for block in policy.layers(depth))
    return tuple(dict.fromkeys(found))


def beside(policies: Iterable[Any], tokenizer: Tokenizer, prompt: Sequence[int]) -> tuple[int, ...]:
    """Tokens of the prompt on each sequence that policies or stages keep beside the run's own: they share its room."""
    return tuple(n for policy in policies if hasattr(policy, "beside") for n in policy.beside(tokenizer, prompt))


def checked(policies: Iterable[Any], model: Any) -> list[str]:
    """What policies or stages say about a model (`backends.Model`): warnings, or ControllerError for another model."""
    return [warning for policy in policies if hasattr(policy, "check") for warning in policy.check(model)]
