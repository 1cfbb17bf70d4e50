"""The model's own log-probability of a sample, for choices by it."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, NamedTuple

from ..core.decode import Decode, Step
from ..core.probability import log_prob
from ..core.trace import Trace
from ..sampling.candidates import Candidates
from ..sampling.draw import Row
from ..sampling.policy import Policy, PolicyWrapper


class ScoreState(NamedTuple):
    """The state of a policy whose tokens are scored."""

    inner: Any
    """The policy's own."""
    total: float
    """Sum of the drawn tokens' log-probabilities, in nats."""
    tokens: int
    """How many were drawn."""


class Scored(PolicyWrapper):
    """A policy whose runs leave the mean log-probability of their drawn tokens in `Trace.mean_logprob`.

    The probabilities are the model's own, before any stage. Forced tokens don't count, and neither does what was taken
    back, since the sum is a part of the state.
    """

    def __init__(self, inner: Policy) -> None:
        super().__init__(inner)

    def start(self) -> Any:
        return ScoreState(self.inner.start(), 0.0, 0)

    def step(self, state: Any, row: Row) -> tuple[Any, int]:
        inner, token = self.inner.step(state.inner, row)
        return ScoreState(inner, state.total + log_prob(row.raw, token), state.tokens + 1), token

    def distribution(self, state: Any, row: Row) -> Candidates:
        return self.inner.distribution(state.inner, row)

    def prepare(self, state: Any, row: Row) -> Generator[Decode, Step, Any]:
        return state._replace(inner=(yield from self.inner.prepare(state.inner, row)))

    def end(self, state: Any) -> None:
        self.inner.end(state.inner)

    def finish(self, state: Any, trace: Trace) -> None:
        self.inner.finish(state.inner, trace)
        trace.mean_logprob = state.total / state.tokens if state.tokens else None
