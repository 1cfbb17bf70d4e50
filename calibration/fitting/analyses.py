"""Whether the calibration runs that a job has so far are enough: what is counted at the analyses of its design.

Owns when a job that collects until its promise stands may stop. Collects nothing and writes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import scipy.stats

from reasonctl.probes.risk import Floats64, Stopping, Threshold

from ..runs.arrays import to_arrays
from ..runs.cue_sets import with_cues
from ..runs.records import RunRecord
from ..runs.run_file import RunFile
from .all_signals import fill, recorded_scores
from .frozen import Frozen
from .job import CalibrationJob
from .tables import outcomes_of

SAVING_CONFIDENCE = 0.95
"""Confidence of the lower bound on the saving. The promise doesn't rest on it: that holds at any analysis."""


class Saving(NamedTuple):
    """The share of their tokens that some runs save, net of trials."""

    share: float
    """What these runs save."""
    low: float
    """One-sided lower bound on what such runs save on average, at SAVING_CONFIDENCE; -inf for a single run."""

    @classmethod
    def of(cls, saved: Floats64, full: Floats64) -> Saving:
        """The saving of runs, with Student's bound on the mean of a run's saved tokens.

        Args:
            saved: Tokens that each run saves; negative where its trials cost more. Shape (runs,).
            full: Tokens of each run without control. Shape (runs,).
        """
        if not (whole := float(full.sum())):
            return cls(0.0, 0.0)
        runs = len(saved)
        error = float(saved.std(ddof=1)) / math.sqrt(runs) if runs > 1 else math.inf
        low = float(saved.mean()) - float(scipy.stats.t.ppf(SAVING_CONFIDENCE, max(runs - 1, 1))) * error
        return cls(float(saved.sum()) / whole, low * runs / whole)


@dataclass(frozen=True)
class Analysis:
    """What the calibration runs up to one analysis allow."""

    stopping: Stopping
    """The design up to this analysis."""
    threshold: Threshold
    """The threshold that they allow for the job's promise."""
    saving: Saving
    """What it saves on them."""

    @property
    def is_enough(self) -> bool:
        """The promise stands, and its saving is above zero with SAVING_CONFIDENCE.

        One exit in thirty runs is no sign of more: a probe that stopped there saved nothing on fresh runs.
        """
        return self.threshold.value < math.inf and self.saving.low > 0


def analyse(job: CalibrationJob, frozen: Frozen, records: list[RunRecord]) -> Analysis:
    """What the first calibration runs allow for the job's promise.

    Args:
        job: The job.
        frozen: Its plan.
        records: The job's runs, in order, up to an analysis.
    """
    stopping = replace(job, n=len(records)).stopping
    domains = tuple(sorted({record.domain for record in records}))
    calibrating = to_arrays(with_cues(records[job.fit :], frozen.cues, job.recipe.max_cues))
    found = fill(frozen, calibrating, domains, recorded_scores(calibrating)).tables
    table, plain = (replace(found[name].table, stopping=stopping) for name in (job.promise.signal, "hidden"))
    if job.promise.domain is not None:
        index = domains.index(job.promise.domain) if job.promise.domain in domains else len(domains)
        table, plain = table.in_domain(index), plain.in_domain(index)
    threshold = job.promise.threshold(table, found[job.promise.signal].grid)
    full = plain.full_tokens.astype(np.float64)
    return Analysis(stopping, threshold, Saving.of(full - outcomes_of(table, plain, threshold.value).tokens, full))


class Analyses:
    """The analyses of a job, one after the other, each when its runs are there."""

    def __init__(
        self, job: CalibrationJob, file: RunFile, plan: Callable[[], Frozen], seen: Callable[[Analysis], None]
    ) -> None:
        """Nothing is analysed yet.

        Args:
            job: The job.
            file: Its file of runs.
            plan: Gives the job's plan; called when the fitting runs are there.
            seen: Called with each analysis.
        """
        self.job = job
        self.file = file
        self.last: Analysis | None = None
        """The last analysis. None: there was none yet."""
        self._plan = plan
        self._seen = seen

    def enough(self, done: int) -> bool:
        """Whether a job with so many runs may stop; every analysis that these runs allow is made, in order."""
        while (runs := self._next()) <= done - self.job.fit:
            if self.last is not None and self.last.is_enough:
                return True
            self.last = analyse(self.job, self._plan(), self.file.read()[: self.job.fit + runs])
            self._seen(self.last)
        return self.last is not None and self.last.is_enough

    @property
    def runs(self) -> int:
        """Calibration runs at the last analysis; 0: there was none yet."""
        return 0 if self.last is None else self.last.stopping.runs

    def _next(self) -> int:
        """Calibration runs at the next analysis."""
        return self.job.analysis_after(self.runs)
