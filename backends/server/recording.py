"""Log-probabilities of the tokens that a run draws, for `logprobs`."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from reasonctl.controller import Policy, PolicyWrapper, Row


class Drawn(NamedTuple):
    """What the model said of a token that was drawn, in nats: its own distribution, before any stage."""

    token: int
    """The token."""
    logprob: float
    """Its log-probability."""
    most: tuple[tuple[int, float], ...]
    """The most probable tokens and their log-probabilities, the largest first."""


class Recorded(PolicyWrapper):
    """A policy that notes the log-probability of what it draws, by place.

    A place that is drawn again, since tokens were taken back, has the last note. It belongs to one run.
    """

    def __init__(self, inner: Policy, most: int) -> None:
        """most: so many of the most probable tokens at each place."""
        super().__init__(inner)
        self._most = most
        self.notes: dict[int, Drawn] = {}
        """By place: the index of the token in the run, its prompt included. Who reads a note takes it out."""

    def step(self, state: Any, row: Row) -> tuple[Any, int]:
        after, token = self.inner.step(state, row)
        logits = row.raw.astype(np.float64)
        logprobs = logits - logits.max()
        logprobs -= np.log(np.exp(logprobs).sum())
        few = min(self._most, len(logprobs))
        found = np.argpartition(-logprobs, few - 1)[:few] if few else np.zeros(0, dtype=np.intp)
        ordered = found[np.argsort(-logprobs[found], kind="stable")]
        most = tuple((int(i), float(logprobs[i])) for i in ordered)
        self.notes[len(row.tokens)] = Drawn(token, float(logprobs[token]), most)
        return after, token
