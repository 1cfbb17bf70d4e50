"""What a controller sees at one cue: the input of every signal, the same live and replayed from a file of runs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Observation:
    """One cue of a run. A number that the signal doesn't read is NaN."""

    index: int
    """Of the cue in its run, from 0."""
    position: int
    """Tokens generated before the cue."""
    p_settled: float
    """The probe's probability, from the hidden state, that the answer is settled; in (0, 1)."""
    entropy: float
    """Of the next-token distribution after the cue, in nats."""
    answer: str | None = None
    """What a trial exit stated. None: no trial was run."""
    logprobs: tuple[float, ...] = ()
    """Of the trial's answer tokens, in nats, at temperature 1."""
