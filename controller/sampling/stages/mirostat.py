"""Mirostat: feedback that steers the truncation by the surprise of the tokens drawn so far (Basu et al. 2021)."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..candidates import Candidates, Indices, head
from ..draw import Row
from ..stage import Stage, require

Feedback = Literal["model", "llama"]

_LOWEST, _HIGHEST = -20.0, 60.0
"""Bounds of mu, in bits: below, mirostat takes the top token anyway; above, it truncates nothing."""


_LARGEST = 700.0
"""exp of more overflows."""


@dataclass(frozen=True)
class Steering(Stage):
    """Keeps the surprise of the drawn tokens near tau bits: mu starts at 2 tau, then mu <- mu - eta (surprise - tau).

    The state is mu; between `step` and `accept` it is mu with the candidates that the stage was given.
    """

    kind = "feedback"
    stateful = True

    tau: float = 5.0
    """The surprise to hold, in bits."""
    eta: float = 0.1
    """Learning rate of mu."""
    feedback: Feedback = "model"
    """The distribution whose surprise is fed back. "model": what the stage is given, the authors' rule. "llama": what
    truncation leaves, as in llama.cpp; there tau is not the model's surprise."""

    def __post_init__(self) -> None:
        require(0.0 < self.tau < math.inf, f"{self.name}'s tau", self.tau, "above 0 bits")
        require(0.0 < self.eta < math.inf, f"{self.name}'s eta", self.eta, "above 0")
        require(self.feedback in ("model", "llama"), f"{self.name}'s feedback", self.feedback, "model or llama")

    def start(self) -> float:
        return 2.0 * self.tau

    def step(self, state: float, candidates: Candidates, row: Row) -> tuple[Any, Candidates]:
        return (state, candidates), candidates.keep(np.sort(self.surviving(candidates, state)))

    def accept(self, state: tuple[float, Candidates], candidates: Candidates, token: int) -> float:
        mu, before = state
        fed_back = before if self.feedback == "model" else candidates
        surprise = (math.log(fed_back.mass) - float(fed_back.shifted[fed_back.position(token)])) / math.log(2)
        return min(max(mu - self.eta * (surprise - self.tau), _LOWEST), _HIGHEST)

    @abstractmethod
    def surviving(self, candidates: Candidates, mu: float) -> Indices:
        """Positions of the tokens that stay."""


@dataclass(frozen=True)
class Mirostat(Steering):
    """Version 1: the k most probable tokens, k from a Zipf fit of the 100 largest ratios of neighbours.

    k = (e 2^mu / (1 - N^-e))^(1/s), e = s - 1, N the vocabulary. It is rounded as in the authors' script with the
    model's feedback, else as in llama.cpp. A row without a falling tail (flat, or one candidate) stays whole; llama.cpp
    keeps one token there.
    """

    name = "mirostat"

    def surviving(self, candidates: Candidates, mu: float) -> Indices:
        k = self.count(candidates, mu)
        return head(candidates.shifted, lambda found: len(found) >= k)[:k]

    def count(self, candidates: Candidates, mu: float) -> int:
        """Number of tokens that stay."""
        k, n = self.size(candidates, mu), len(candidates.possible)
        if k > n + 1:
            return n
        return min(max(round(k) + 1 if self.feedback == "model" else int(k), 1), n)

    def size(self, candidates: Candidates, mu: float) -> float:
        """k before it is rounded; infinite for a row without a falling tail."""
        ratios = 100 if self.feedback == "model" else 99
        order = head(candidates.shifted, lambda found: len(found) > ratios)[: ratios + 1]
        exponent = _zipf(candidates.shifted[order].astype(np.float64))
        if not 0.0 < exponent < math.inf:
            return math.inf
        excess, log_size = exponent - 1.0, math.log(len(candidates.logits))
        factor = 1 / log_size if abs(excess) < 1e-9 else excess / -math.expm1(-excess * log_size)
        # In logs: (...)^(1/s) overflows for a small s.
        log = (math.log(factor) + mu * math.log(2)) / exponent
        return math.exp(log) if log < _LARGEST else math.inf


def _zipf(sorted_logs: np.ndarray) -> float:
    """Least-squares exponent of p ~ rank^-s through neighbouring ratios; NaN if there is none."""
    i = np.arange(len(sorted_logs) - 1)
    t = np.log((i + 2) / (i + 1))
    squares = float(t @ t)
    return float(t @ -np.diff(sorted_logs)) / squares if squares > 0 else math.nan


@dataclass(frozen=True)
class MirostatV2(Steering):
    """Version 2 (llama.cpp): the tokens whose surprise is at most mu bits, and the most probable one."""

    name = "mirostat_v2"

    def surviving(self, candidates: Candidates, mu: float) -> Indices:
        bound = math.log(candidates.mass) - mu * math.log(2)
        if bound > 0.0:
            return np.array([int(candidates.shifted.argmax())])
        return np.flatnonzero(candidates.shifted >= bound)
