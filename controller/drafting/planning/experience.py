"""What a drafter with a model learns over all its runs."""

from __future__ import annotations

from dataclasses import dataclass

from .acceptance import Acceptance

PAUSE = 64
"""Plain steps before a drafter that did not pay tries again, at first."""
LONGEST_PAUSE = 1024
"""Longest such pause."""
TYPICAL_LENGTH = 128.0
"""Tokens that a run is expected to have, before any run was seen."""


@dataclass
class Ledger:
    """Sums over the drafted steps of all runs: expected tokens and seconds, and real ones.

    The expected tokens of a step follow from acceptance by rank, for a dynamic tree from acceptance by value. The
    expected seconds follow from the cost curves of both models and the drafter's own work.
    """

    steps: int = 0
    """Drafted steps."""
    expected_emitted: float = 0.0
    """Tokens that they were expected to emit."""
    emitted: int = 0
    """Tokens that they emitted."""
    timed: int = 0
    """Steps with both an expected and a measured time. A forward that is shared with other runs has no time."""
    expected_seconds: float = 0.0
    """Seconds that the timed steps were expected to take."""
    seconds: float = 0.0
    """Seconds that they took."""

    def enter(self, expected: float, emitted: int, expected_seconds: float | None, seconds: float | None) -> None:
        """Add one step."""
        self.steps += 1
        self.expected_emitted += expected
        self.emitted += emitted
        if expected_seconds is not None and seconds is not None:
            self.timed += 1
            self.expected_seconds += expected_seconds
            self.seconds += seconds


@dataclass
class Pauses:
    """Plain steps between attempts to draft: twice as many after each attempt that did not pay."""

    left: int = 0
    """Plain steps still to come."""
    next_length: int = PAUSE
    """Length of the pause after the next attempt that doesn't pay."""
    after_attempt: bool = False
    """Whether the last pause followed an attempt to draft. The acceptance rates are out of date then."""

    def begin_run(self) -> None:
        """Shorten a long pause: it says little about the text of a new run."""
        self.left = min(self.left, PAUSE)

    def failed(self) -> None:
        """Pause, as no draft pays; the next pause is longer."""
        self.left = self.next_length
        self.after_attempt = True
        self.next_length = min(2 * self.next_length, LONGEST_PAUSE)

    def postpone(self) -> None:
        """Pause, as the rest of this run is too short to pay for feeding the draft model."""
        self.left = PAUSE
        self.after_attempt = False

    def paid(self) -> None:
        """Make the next pause short again, as drafting still pays."""
        self.next_length = PAUSE


class Experience:
    """What outlives a run: acceptance, the ledger, pauses, the length of runs and the drafter's own work."""

    def __init__(self) -> None:
        self.acceptance = Acceptance()
        """How often drafted tokens are accepted."""
        self.ledger = Ledger()
        """Expected and real tokens and seconds."""
        self.pauses = Pauses()
        """When to try drafting again."""
        self.typical_length = TYPICAL_LENGTH
        """Tokens of a run, a decaying average."""
        self.node_seconds = 0.0
        """The drafter's own work for a drafted token, forwards left out; a decaying average."""

    def note_length(self, tokens: int) -> None:
        """Count a run of so many tokens."""
        self.typical_length += 0.2 * (tokens - self.typical_length)

    def note_work(self, seconds: float, nodes: int) -> None:
        """Count the drafter's own work on a draft of so many nodes."""
        self.node_seconds += 0.1 * (seconds / nodes - self.node_seconds)
