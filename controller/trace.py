"""What happened in one run: events for the consumer, decisions at cues, and one Trace for the record."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Source = Literal["model", "draft", "forced"]
Finish = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Event:
    """One token that can no longer be taken back. `position` counts from the start of the prompt."""

    token: int
    source: Source
    position: int


@dataclass(frozen=True, slots=True)
class Decision:
    """What the exit rule said at one cue. `position` = tokens generated before the cue."""

    exit: bool
    cue: str
    index: int
    position: int
    score: float
    threshold: float

    def __str__(self) -> str:
        verdict = "exited" if self.exit else "went on"
        sign = ">" if self.score > self.threshold else "<="
        return f"{verdict} at cue {self.index + 1} ({self.cue!r}): score {self.score:.3f} {sign} {self.threshold:.3f}"


@dataclass
class Trace:
    """The record of one run.

    tokens: what the run generated, forced tokens included, the end-of-sequence token too.
    cost: tokens generated or fed for the run's sake beyond the prompt: tokens of `tokens`, cues taken
        back, trial answers. Rejected draft rows are not in it; they are in `drafted`.
    """

    prompt_tokens: int = 0
    tokens: list[int] = field(default_factory=list)
    cost: int = 0
    forwards: int = 0
    drafted: int = 0
    accepted: int = 0
    seed: int = 0
    run: int = 0
    controlled: bool = False
    decisions: list[Decision] = field(default_factory=list)
    forced: tuple[int, int] | None = None
    """Start and length of the exit's forced tokens in `tokens`."""
    finish_reason: Finish | None = None
    note: str = ""
    """Why the rule could not act, where it could not."""
    warnings: list[str] = field(default_factory=list)

    @property
    def exit(self) -> Decision | None:
        """The decision that ended thinking, if one did."""
        return self.decisions[-1] if self.decisions and self.decisions[-1].exit else None

    @property
    def score(self) -> float | None:
        """What the exit rule said at the last cue."""
        return self.decisions[-1].score if self.decisions else None

    @property
    def why(self) -> str:
        """One line: why the run exited early, or why it didn't."""
        if not self.controlled:
            return "no exit rule was set"
        if self.exit:
            return str(self.exit)
        if self.note:
            return f"no exit: {self.note}"
        if not self.decisions:
            return "no exit: no cue was met while thinking"
        best = max(self.decisions, key=lambda decision: decision.score)
        if best.threshold == float("inf"):
            return f"no exit: threshold +inf, too few calibration runs for this risk; {len(self.decisions)} cues met"
        return f"no exit: {len(self.decisions)} cues, highest score {best.score:.3f} <= {best.threshold:.3f}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for one JSON line per run."""
        return {**asdict(self), "why": self.why}
