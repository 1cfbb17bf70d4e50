"""A stage of a chain: one pure step on the candidates of a row. Its fields are its text form.

Owns the contract of a stage and how one is written and checked; the stages themselves are in `stages/`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from dataclasses import MISSING, Field, fields
from typing import Any, ClassVar, Literal

from ..core.decode import Decode, Step
from ..core.errors import ControllerError
from ..core.text_form import write_value
from ..core.tokenizer import Tokenizer
from .candidates import Candidates
from .draw import Row, RunContext

Kind = Literal["constraint", "temperature", "truncation", "feedback"]


class Stage(ABC):
    """One step of a chain, a frozen dataclass. Its state travels with the token's node, so it must be a value.

    A stage of your own needs `name`, `kind` and `step` (or `apply`, as a `Pure` stage without state).
    """

    name: ClassVar[str]
    """The name in its text form."""
    kind: ClassVar[Kind]
    """What the stage does, which decides where in a chain it may stand."""
    stateful: ClassVar[bool] = False
    """The stage has a state of its own, from `start` through `step` and `accept`."""
    needs_forwards: ClassVar[bool] = False
    """The stage asks for forwards of its own, see `prepare`."""
    phased: ClassVar[bool] = False
    """The stage needs to know where thinking ends."""
    reads_text: ClassVar[bool] = False
    """The stage reads the run's tokenizer."""
    suppresses_cues: ClassVar[bool] = False
    """The stage keeps words away while thinking that exit rules wait for."""
    one_answer: ClassVar[bool] = False
    """What follows the thoughts is one text to it, so that an opening marker in it opens no thinking."""
    truncates: ClassVar[bool] = False
    """The stage may drop candidates because they are improbable."""
    needs_whole_row: ClassVar[bool] = False
    """The stage measures the whole row: no truncation may stand before it."""
    drafts: ClassVar[bool] = True
    """The stage may see a draft model's rows.

    False for a stage that counts its calls, that takes every token it sees as written, or that reads what only the
    target has.
    """

    @property
    def neutral(self) -> bool:
        """The stage leaves every row as it is."""
        return False

    def start(self) -> Any:
        """The state before the first token of a run."""
        return None

    @abstractmethod
    def step(self, state: Any, candidates: Candidates, row: Row) -> tuple[Any, Candidates]:
        """The candidates after this stage, and what `accept` needs to know."""

    def accept(self, state: Any, candidates: Candidates, token: int) -> Any:
        """The state after `token` was drawn from `candidates`, what the whole chain left; `state` is `step`'s."""
        return state

    def divisor(self, candidates: Candidates, row: Row) -> float:
        """What `step` divides the logits by at this row, before it truncates."""
        return 1.0

    def prepare(self, state: Any, row: Row) -> Generator[Decode, Step, Any]:
        """Ask for the forwards that `step` depends on, where `needs_forwards`; returns the state for `step`."""
        return state
        yield  # a generator

    def end(self, state: Any) -> None:
        """Give back what `prepare` holds for a run, once the run is over."""
        return None

    def layers(self, depth: int) -> tuple[int, ...]:
        """Blocks whose output `step` reads, in a model of `depth` blocks."""
        return ()

    def check(self, model: Any) -> list[str]:
        """Warnings about the model that the stage will run on; ControllerError for one that it wasn't made for."""
        return []

    def check_run(self, context: RunContext) -> None:
        """Raises ControllerError, before any forward, for a run that can't have the stage."""
        if self.reads_text:
            context.read(self.name)

    def extra_sequences(self, tokenizer: Tokenizer, prompt: Sequence[int]) -> tuple[int, ...]:
        """Sequences that the stage keeps besides the run's own, as the number of the prompt's tokens on each."""
        return ()

    def __str__(self) -> str:
        """The text form: `min_p(0.05)`, `edt(t0=0.8,theta=0.4)`."""
        parameters, values = parameters_of(type(self)), vars(self)
        given = {}
        for field in parameters:
            if field.default is MISSING or values[field.name] != field.default:
                given[field.name] = values[field.name]
        if parameters and list(given) == [parameters[0].name]:
            return f"{self.name}({write_value(*given.values())})"
        inside = ",".join(f"{name}={write_value(value)}" for name, value in given.items())
        return f"{self.name}({inside})" if inside else self.name


class Pure(Stage):
    """A stage without state."""

    def step(self, state: Any, candidates: Candidates, row: Row) -> tuple[Any, Candidates]:
        return state, self.apply(candidates, row)

    @abstractmethod
    def apply(self, candidates: Candidates, row: Row) -> Candidates:
        """The candidates after this stage."""


def parameters_of(stage: type[Stage]) -> list[Field[Any]]:
    """The fields that a stage is made from, which its text form names; not those that it reads from a file."""
    return [field for field in fields(stage) if field.init]  # type: ignore[arg-type]


def require(ok: bool, name: str, value: Any, rule: str) -> None:
    """ControllerError unless `ok`: the value, and what it must be."""
    if not ok:
        text = str(value)
        raise ControllerError(f"{name} is {text if len(text) <= 120 else text[:117] + '...'}; it must be {rule}")
