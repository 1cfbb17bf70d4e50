"""Streams of runs through an audit ledger: they are admitted in order, run together, and end in any order.

The runs are drawn from a large pool of recorded ones, whose failing share is known.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from reasonctl.controller import Promised
from reasonctl.controller.audits import SCHEMA, VERSION, AuditLedger, Store
from reasonctl.controller.audits.ledger import Place
from reasonctl.probes.risk.table import NO_EXIT
from support.simulated_runs import simulate

BATCH = 16
"""Runs that are under way together."""


@dataclass(frozen=True)
class Pool:
    """Recorded runs under an exit rule; every array has shape (runs,)."""

    failed: npt.NDArray[np.bool_]
    """The exit's answer isn't the full run's."""
    length: npt.NDArray[np.int64]
    """Tokens of the full run."""
    score: npt.NDArray[np.float64]
    """The highest score of the run."""

    @property
    def rate(self) -> float:
        """The share that fails."""
        return float(self.failed.mean())


def pool(runs: int = 20_000, *, threshold: float = 0.98, seed: int = 5) -> Pool:
    """Simulated runs that exit above a threshold."""
    table = simulate(runs, seed)
    exits = table.first_exit(threshold)
    out = table.outcomes(exits)
    assert (exits != NO_EXIT).any()
    highest = np.array([table.scores[a:b].max() for a, b in zip(table.offsets, table.offsets[1:], strict=False)])
    return Pool(out.disagree, table.full_tokens, highest)


def ledger(risk: float, seed: int, *, share: float = 0.1, level: float = 0.01, kind: type[AuditLedger] = AuditLedger):
    """A ledger in memory."""
    promised = Promised("disagree", risk, 64, "p")
    return kind.of(Store(None, SCHEMA, version=VERSION), "p", promised, share=share, level=level, seed=seed)


@dataclass
class Stream:
    """A stream of runs that is followed to its end or to the alarm."""

    ledger: AuditLedger
    batch: int = BATCH
    patience: float = float("inf")
    """A client leaves a run that is longer."""
    harmed: int = 0
    """Exits that were made and failed."""
    runs: int = 0
    """Runs that were admitted."""
    _running: list[tuple[float, int, Place | None, bool]] = field(default_factory=list)
    _clock: float = 0.0

    def follow(self, runs: Iterator[tuple[bool, int]]) -> bool:
        """Take runs, each with whether its exit fails and its length; whether the alarm was raised."""
        for failed, length in runs:
            if len(self._running) >= self.batch:
                self._end_one()
            if self.ledger.alarm:
                return True
            place = self.ledger.admit([self.runs, self.runs >> 8, 7])
            audited = place is not None and place.audited
            self.harmed += failed and not audited
            left = audited and length > self.patience
            heapq.heappush(self._running, (self._clock + length, self.runs, place if audited else None, failed or left))
            self.runs += 1
        while self._running and not self.ledger.alarm:
            self._end_one()
        return self.ledger.alarm

    def _end_one(self) -> None:
        self._clock, _, place, failed = heapq.heappop(self._running)
        if place is not None:
            self.ledger.end(place, failed=failed)


def drawn(source: Pool, runs: int, rng: np.random.Generator) -> Iterator[tuple[bool, int]]:
    """Runs of a pool, drawn anew."""
    for i in rng.integers(0, len(source.failed), runs):
        yield bool(source.failed[i]), int(source.length[i])
