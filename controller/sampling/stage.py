"""A stage of a chain: one pure step on the candidates of a row. Its fields are its text form.

Owns the contract of a stage and how one is written and checked; the stages themselves stand beside.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ..core.decode import Decode, Step
from ..core.errors import ControllerError
from ..core.text_form import written
from .candidates import Candidates
from .row import Row, RunContext

if TYPE_CHECKING:
    from ..core.tokenizer import Tokenizer


Kind = Literal["constraint", "temperature", "truncation", "feedback"]


class Stage(ABC):
    """One step of a chain, a frozen dataclass. State travels with the node, so it must be a value.

    kind: what the stage does, which decides where it may stand. stateful: it has a state of its own.
    asks: it wants forwards, see `prepare`. reads_text: it needs the run's tokenizer. truncates: it may drop candidates
    for being improbable. phased: it needs to know where thinking ends. suppresses_cues: words that exit rules wait for
    are never written while thinking. drafts: it may be asked about a draft model's rows too; False for what counts its
    calls, or takes every token it is shown for a written one.
    """

    name: ClassVar[str]
    kind: ClassVar[Kind]
    stateful: ClassVar[bool] = False
    asks: ClassVar[bool] = False
    reads_text: ClassVar[bool] = False
    truncates: ClassVar[bool] = False
    phased: ClassVar[bool] = False
    suppresses_cues: ClassVar[bool] = False
    drafts: ClassVar[bool] = True

    def start(self) -> Any:
        """State before the first token of a run."""
        return None

    def check_run(self, frame: RunContext) -> None:
        """Raises ControllerError, before any forward, if this run can't have the stage."""
        if self.reads_text:
            frame.read(self.name)

    @abstractmethod
    def step(self, state: Any, scores: Candidates, row: Row) -> tuple[Any, Candidates]:
        """The candidates after this stage, and what `accept` needs to know."""

    def accept(self, state: Any, scores: Candidates, token: int) -> Any:
        """The state after `token` was drawn from `scores`, what the whole chain left; `state` is `step`'s."""
        return state

    def divisor(self, scores: Candidates, row: Row) -> float:
        """What `step` divides the logits by at this row, before it truncates."""
        return 1.0

    def layers(self, depth: int) -> tuple[int, ...]:
        """Blocks whose output `step` reads, in a model of `depth` blocks."""
        return ()

    def check(self, model: Any) -> list[str]:
        """Warnings about the model that the stage will run on; ControllerError for one that it wasn't made for."""
        return []

    def prepare(self, state: Any, row: Row) -> Generator[Decode, Step, Any]:
        """Forwards that `step` depends on; only asked of stages that ask."""
        return state
        yield  # a generator

    def beside(self, tokenizer: Tokenizer, prompt: Sequence[int]) -> tuple[int, ...]:
        """Tokens of the prompt on each sequence that the stage keeps beside the run's own."""
        return ()

    def end(self, state: Any) -> None:
        """The run is over; only told to stages that ask."""
        return None

    def __str__(self) -> str:
        """The text form: `min_p(0.05)`, `edt(t0=0.8,theta=0.4)`."""
        given = {}
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if field.default is MISSING or value != field.default:
                given[field.name] = value
        if list(given) == [fields(self)[0].name]:  # type: ignore[arg-type]
            return f"{self.name}({written(*given.values())})"
        inside = ",".join(f"{name}={written(value)}" for name, value in given.items())
        return f"{self.name}({inside})" if inside else self.name


class Pure(Stage):
    """A stage without state."""

    def step(self, state: Any, scores: Candidates, row: Row) -> tuple[Any, Candidates]:
        return state, self.apply(scores, row)

    @abstractmethod
    def apply(self, scores: Candidates, row: Row) -> Candidates:
        """The candidates after this stage."""


def require(ok: bool, name: str, value: Any, rule: str) -> None:
    """ControllerError unless `ok`: the value, and what it must be."""
    if not ok:
        raise ControllerError(f"{name} is {value}; it must be {rule}")
