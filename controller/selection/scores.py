"""The model's own log-probability of a sample, for choices by it."""

from __future__ import annotations

from typing import NamedTuple

from ..core.probability import log_prob
from ..core.trace import Trace
from ..sampling.draw import Row
from ..sampling.policy import StatefulWrapper, WrapperState


class Score(NamedTuple):
    """What the model says of the tokens drawn so far."""

    total: float = 0.0
    """Sum of their log-probabilities, in nats."""
    tokens: int = 0
    """How many were drawn."""


class Scored(StatefulWrapper):
    """A policy whose runs leave the mean log-probability of their drawn tokens in `Trace.mean_logprob`.

    The probabilities are the model's own, before any stage. Forced tokens don't count, and neither does what was taken
    back, since the sum is a part of the state.
    """

    def begin(self) -> Score:
        return Score()

    def step(self, state: WrapperState, row: Row) -> tuple[WrapperState, int]:
        (inner, token), score = self.inner.step(state.inner, row), state.own
        return WrapperState(inner, Score(score.total + log_prob(row.raw, token), score.tokens + 1)), token

    def finish(self, state: WrapperState, trace: Trace) -> None:
        super().finish(state, trace)
        total, tokens = state.own
        trace.mean_logprob = total / tokens if tokens else None
