"""Recorded runs through audits: how soon a broken promise is seen, and how often a kept one is called broken.

Runs are admitted in order, so many are under way together, and they end in any order.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from reasonctl.controller import AuditLedger, Promised
from reasonctl.controller.audits import LEVEL, SCHEMA, SHARE, VERSION, Place, Store
from reasonctl.probes.risk import Table

TOGETHER = 16
"""Runs that are under way together."""


@dataclass(frozen=True)
class RunPool:
    """Recorded runs under an exit rule; every array has shape (runs,)."""

    failed: npt.NDArray[np.bool_]
    """The run exits, and the exit's answer isn't the full run's."""
    length: npt.NDArray[np.int64]
    """Tokens of the full run."""
    exits: npt.NDArray[np.bool_]
    """The run exits."""

    @classmethod
    def of(cls, table: Table, threshold: float) -> RunPool:
        """The runs of a table that exit at their first cue above a threshold."""
        out = table.outcomes(table.first_exit(threshold))
        return cls(out.disagree, np.asarray(table.full_tokens, dtype=np.int64), out.exited)

    @property
    def rate(self) -> float:
        """The share that fails."""
        return float(self.failed.mean())

    def draw(self, runs: int, rng: np.random.Generator) -> Iterator[tuple[bool, int]]:
        """Runs drawn with replacement: whether each fails, and its length."""
        for i in rng.integers(0, len(self.failed), runs):
            yield bool(self.failed[i]), int(self.length[i])


def ledger_in_memory(
    risk: float, seed: int, *, share: float = SHARE, level: float = LEVEL, kind: type[AuditLedger] = AuditLedger
) -> AuditLedger:
    """A ledger of a promise that at most `risk` of the runs disagree."""
    promised = Promised("disagree", risk, 64, "pool")
    return kind.of(Store(None, SCHEMA, version=VERSION), promised.name, promised, share=share, level=level, seed=seed)


@dataclass
class AuditStream:
    """A stream of runs, followed to its end or to the alarm."""

    ledger: AuditLedger
    """Its audits."""
    together: int = TOGETHER
    """Runs that are under way together."""
    patience: float = float("inf")
    """A client leaves a run that is longer."""
    harmed: int = 0
    """Exits that were made and failed."""
    runs: int = 0
    """Runs that were admitted."""
    _running: list[tuple[float, int, Place | None, bool]] = field(default_factory=list)
    _clock: float = 0.0

    def follow(self, runs: Iterable[tuple[bool, int]]) -> bool:
        """Take runs, each with whether its exit fails and its length; whether the alarm was raised."""
        for failed, length in runs:
            if len(self._running) >= self.together:
                self._end_one()
            if self.ledger.alarm:
                return True
            place = self.ledger.admit([self.runs, 7])
            audited = place is not None and place.audited
            left = audited and length > self.patience
            self.harmed += failed and not audited
            ends = (self._clock + length, self.runs, place if audited else None, failed or left)
            heapq.heappush(self._running, ends)
            self.runs += 1
        return self.ledger.alarm

    def finish(self) -> bool:
        """Let all runs end; whether the alarm was raised."""
        while self._running:
            self._end_one()
        return self.ledger.alarm

    def _end_one(self) -> None:
        self._clock, _, place, failed = heapq.heappop(self._running)
        if place is not None:
            self.ledger.end(place, failed=failed)
