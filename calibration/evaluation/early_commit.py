"""The promise of an early commit: recorded runs of a masked model as a calibration table, and what a threshold saves.

A run whose commit never acts records at every forward the answer that a commit would have given. A commit changes
nothing before it acts, so these are exact labels, and no trial is needed. The unit of cost is the forward.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from reasonctl.controller import ControllerError
from reasonctl.controller.diffusion import UnmaskingTrace
from reasonctl.probes.risk import Grid, Mode, Table, Threshold, choose_threshold, failures_at, upper_bound


@dataclass(frozen=True)
class CommitCalibration:
    """A threshold and what it did on runs that had no part in it."""

    threshold: Threshold
    """What the calibration runs allow."""
    runs: int
    """Runs of the test."""
    accuracy: float
    """Share of right answers without a commit."""
    committed_accuracy: float
    """Share of right answers with it."""
    forwards: float
    """Mean forwards of a run without a commit."""
    committed_forwards: float
    """Mean forwards of a run with it."""
    failures: int
    """Test runs that fail as the mode says."""
    upper: float
    """One-sided 90 % bound of their rate."""
    commits: float
    """Share of runs that commit."""

    @property
    def saved(self) -> float:
        """Share of forwards saved."""
        return 1 - self.committed_forwards / self.forwards


def commit_table(traces: Sequence[UnmaskingTrace], right: Callable[[int, list[int]], bool]) -> Table:
    """Recorded runs as a table whose cues are the forwards.

    Args:
        traces: Runs with a `Commit` of threshold +inf, one a problem.
        right: right(run, canvas): whether the canvas answers that run's problem.

    Raises:
        ControllerError: A run recorded no signal, or committed.
    """
    if any(not trace.signals or trace.committed is not None for trace in traces):
        raise ControllerError("a run recorded no signal or has committed; record with Commit(signal), which never acts")
    graded = [[right(run, answer) for answer in trace.answers] for run, trace in enumerate(traces)]
    full = [right(run, trace.tokens) for run, trace in enumerate(traces)]
    lengths = [len(trace.signals) for trace in traces]
    steps = [step for length in lengths for step in range(length)]
    labels = [one for run in graded for one in run]
    return Table(
        offsets=np.cumsum([0, *lengths]),
        positions=np.array(steps),
        scores=np.array([score for trace in traces for score in trace.signals]),
        right=np.array(labels),
        same=np.array([answer[: len(t.tokens)] == t.tokens for t in traces for answer in t.answers]),
        exit_tokens=np.array(steps) + 1,
        cue_name=np.zeros(len(steps), dtype=np.int32),
        full_right=np.array(full),
        full_tokens=np.array([trace.forwards for trace in traces]),
        problem=np.arange(len(traces)),
    )


def split(table: Table, fitting: int) -> tuple[Table, Table, Table]:
    """The first runs for the grid, half of the others to calibrate, the rest to test."""
    if table.runs < fitting + 2:
        raise ControllerError(f"{table.runs} runs can't be split after {fitting}; make more (-n)")
    middle = fitting + (table.runs - fitting) // 2
    parts = (np.arange(fitting), np.arange(fitting, middle), np.arange(middle, table.runs))
    return table.select(parts[0]), table.select(parts[1]), table.select(parts[2])


def calibrate_commit(
    fitting: Table, calibration: Table, test: Table, mode: Mode, risk: float, confidence: float | None
) -> CommitCalibration:
    """A threshold from the calibration runs, on a grid of the fitting runs, and what it does to the test's runs."""
    threshold = choose_threshold(calibration, Grid.of(fitting), mode, risk, confidence)
    exits = test.first_exit(threshold.value)
    out = test.outcomes(exits)
    failed, n = failures_at(test, mode, np.array([threshold.value]))
    right = np.where(out.exited, ~out.wrong, test.full_right)
    return CommitCalibration(
        threshold,
        test.runs,
        float(test.full_right.mean()),
        float(right.mean()),
        float(test.full_tokens.mean()),
        float(out.tokens.mean()),
        int(failed[0]),
        upper_bound(int(failed[0]), int(n[0])) if n[0] else 1.0,
        float(out.exited.mean()),
    )
