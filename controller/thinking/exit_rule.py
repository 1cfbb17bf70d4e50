"""The contract of an exit rule, and what it sees at a cue. The rules themselves live in `probes/`."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ..core.decode import Decode, Floats, Session, Step
from ..core.probability import entropy
from ..core.trace import Decision
from .cues import Cue, Cues
from .markers import Markers


@dataclass(frozen=True)
class Trial:
    """The answer that an exit would have given, found on a fork.

    tokens: the answer, end-of-sequence included. logprobs: of each of them under the model's own law (temperature 1,
    nothing truncated), in nats. text: forced text and answer as the user would read them. cost: tokens fed or sampled.
    """

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    text: str
    cost: int


@dataclass(frozen=True)
class Boundary:
    """A cue inside the thinking span, all of its tokens verified and in the cache.

    hidden: by layer, the state at the cue's last token, shape (width,); copies, safe to keep.
    tokens: the run's tokens; the cue is `tokens[cue.first : cue.last + 1]`, one more token follows (sampled; where a
        forced text goes on behind its cue word, the next forced one).
    forced: what an exit here would feed in place of the cue.
    prompt: number of prompt tokens in `tokens`.
    memory: the rule's own notes on this run, kept from cue to cue; empty at the first.
    """

    cue: Cue
    hidden: dict[int, Floats]
    tokens: Sequence[int]
    forced: tuple[int, ...]
    prompt: int
    session: Session
    memory: list[Any]
    row: Callable[[], Floats]
    """The logits after the cue's last token, shape (vocabulary,): a view, gone after the first trial."""
    answer: Callable[..., Generator[Decode, Step, Trial]]
    """`answer(n)` tries the exit on a fork: a generator that returns a Trial of at most n answer tokens.

    `answer(n, cue)` tries it at another cue of this row, one of `cue.also`."""

    def entropy(self) -> float:
        """Entropy in nats of the next-token law after the cue, at temperature 1; ask before any trial."""
        return entropy(self.row())


class ExitRule(Protocol):
    """Says at every cue whether thinking ends there."""

    @property
    def markers(self) -> Markers | None:
        """None: the model has no thinking markers, its whole completion is the span."""

    @property
    def cues(self) -> Cues: ...

    @property
    def suffix(self) -> str:
        """The text that takes the cue's place on exit; closes the span where there are markers."""

    @property
    def max_cues(self) -> int:
        """Cues looked at per run; the same in calibration and in use."""

    @property
    def trials(self) -> bool:
        """True: `decide` may call `at.answer`, which ends the walk over a draft."""

    def layers(self, depth: int) -> tuple[int, ...]:
        """Blocks whose state at the cue is wanted, for a model of `depth` blocks."""

    def decide(self, at: Boundary) -> Generator[Decode, Step, Decision]:
        """Exit here, or go on."""
