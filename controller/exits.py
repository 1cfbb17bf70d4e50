"""The contract of an exit rule, and what it sees at a cue. The rules themselves live in `probes/`."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from .decode import Decode, Floats, Session, Step
from .thinking import Cue, Cues, Markers
from .trace import Decision


@dataclass(frozen=True)
class Boundary:
    """A cue inside the thinking span, all of its tokens verified and in the cache.

    hidden: by layer, the state at the cue's last token, shape (width,); copies, safe to keep.
    tokens: the run's tokens; the cue is `tokens[cue.first : cue.last + 1]`, one sampled token follows.
    forced: what an exit here would feed in place of the cue.
    prompt: number of prompt tokens in `tokens`.
    """

    cue: Cue
    hidden: dict[int, Floats]
    tokens: Sequence[int]
    forced: tuple[int, ...]
    prompt: int
    session: Session
    answer: Any
    """`answer(n)`: a generator that tries the exit on a fork and returns at most n answer tokens."""


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
