"""What a controller sees at one cue: the input of every signal, the same live and replayed from a file of runs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Observation:
    """One cue of a run.

    index: of the cue, 0-based. position: tokens generated before it. settled: the probe's P(the answer is right) from
    the hidden state, in (0, 1). entropy: of the next-token law after the cue, in nats. Either is NaN where the signal
    doesn't read it. answer: what a trial exit
    stated, None where none was tried. logprobs: of the trial's answer tokens, in nats, at temperature 1.
    """

    index: int
    position: int
    settled: float
    entropy: float
    answer: str | None = None
    logprobs: tuple[float, ...] = ()
