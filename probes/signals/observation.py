"""What a controller sees at one cue. Every signal reads it, live and on recorded runs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Observation:
    """One cue of a run. A number that the signal doesn't read is NaN."""

    index: int
    """Number of the cue in its run, from 0."""
    position: int
    """Tokens generated before the cue."""
    p_settled: float
    """The probe's score, in (0, 1): the probability, from the hidden state, that the answer at this cue is right."""
    entropy: float
    """Entropy of the next-token distribution after the cue, in nats."""
    answer: str | None = None
    """What a trial exit stated. None: no trial was run."""
    logprobs: tuple[float, ...] = ()
    """Log-probabilities of the trial's answer tokens, in nats, at temperature 1."""
