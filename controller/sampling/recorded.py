"""A policy that writes down, for each token, how sure the model was and how warm the draw."""

from __future__ import annotations

from typing import NamedTuple

from ..core.errors import ControllerError
from ..core.probability import entropy
from ..core.trace import Trace
from .draw import Row
from .policy import StatefulWrapper, WrapperState


class TokenRecord(NamedTuple):
    """One drawn token. The records of a run are a chain: what is taken back leaves no record."""

    before: TokenRecord | None
    """The token drawn before it."""
    place: int
    """Its place among the run's tokens."""
    entropy: float
    """Entropy of the model's own row, in nats."""
    temperature: float | None
    """What its logits were divided by; 0: the most probable token was taken. None: the policy doesn't say."""


class Recorded(StatefulWrapper):
    """A policy whose runs leave `Trace.entropies` and `Trace.temperatures`."""

    def begin(self) -> TokenRecord | None:
        return None

    def step(self, state: WrapperState, row: Row) -> tuple[WrapperState, int]:
        temperature = self._temperature(state, row)
        inner, token = self.inner.step(state.inner, row)
        index = len(row.tokens) - row.context.start
        return WrapperState(inner, TokenRecord(state.own, index, entropy(row.raw), temperature)), token

    def finish(self, state: WrapperState, trace: Trace) -> None:
        super().finish(state, trace)
        trace.entropies = [None] * len(trace.tokens)
        trace.temperatures = [None] * len(trace.tokens)
        record = state.own
        while record is not None:
            if record.place < len(trace.tokens):
                trace.entropies[record.place] = record.entropy
                trace.temperatures[record.place] = record.temperature
            record = record.before

    def _temperature(self, state: WrapperState, row: Row) -> float | None:
        try:
            found = self.inner.distribution(state.inner, row).temperature
        except ControllerError:
            return None  # the policy doesn't say its distribution; what is wrong with the row, its step says
        return found if self.inner.samples(row.phase) else 0.0
