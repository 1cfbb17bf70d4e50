"""Every signal fitted on the fitting runs, and its table filled from the calibration runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from reasonctl.controller import ControllerError
from reasonctl.probes import LowerGrid, Promise
from reasonctl.probes.files import Scalar, SignalTable
from reasonctl.probes.risk import Floats64, Grid, Mode, Table, failing_cues
from reasonctl.probes.signals import SIGNALS, Probe, Stack, make_signal

from ..runs.arrays import RunArrays
from ..runs.trials import Labels, few, often
from .frozen import Frozen
from .probe import Fitted, fit_probe
from .stack import fit_stack
from .tables import apply_to_table, by_run, make_table, observations_of

LEAST_FLOOR = 0.2
"""The floor is for a risk of at least this much, so that a later wish for a looser one can be met."""
FLOOR_FACTOR = 2.0
"""The floor is for at least so many times the risk that is asked for."""


@dataclass(frozen=True, eq=False)
class FittedSignals:
    """Everything that is fitted for a probe file."""

    probe: Probe
    """The probe."""
    stack: Stack | None
    """The stack. None: it could not be fitted."""
    lower: LowerGrid | None
    """Curves for giving up, by the probe's scores. None: there are no gold answers."""
    tables: dict[str, SignalTable]
    """Every signal's grid and calibration table, `hidden` first."""
    report: Mapping[str, Scalar]
    """The figures of the probe's fit, for the card."""


def fit_signals(
    fitting: RunArrays, calibrating: RunArrays, cues: Sequence[str], domains: Sequence[str], mode: Mode, *, seed: int
) -> FittedSignals:
    """Every signal on the same two splits: fitted, and given its grid, on one; its table filled from the other."""
    frozen = freeze_signals(fitting, cues, Promise(mode), "all", seed=seed)
    return fill(frozen, calibrating, domains, scores_of(frozen.probe, calibrating))


def freeze_signals(fitting: RunArrays, cues: Sequence[str], promise: Promise, labels: Labels, *, seed: int) -> Frozen:
    """What the fitting runs decide about every signal.

    Args:
        fitting: The fitting runs.
        cues: The names of the cues.
        promise: Its mode says which answers the probe learns from, and its risk where the floor is. A plugin's signal
            has a table only in the file of the promise that names it.
        labels: What is tried on the calibration runs. At `records` the probe is the only signal: the others, and giving
            up, would read what no trial has found.
        seed: Of the folds.
    """
    known, mode = fitting.labelled, promise.mode
    fitted = fit_probe(fitting.features, fitting.labels(mode), fitting.problems, seed=seed, known=known)
    own = make_table(fitting, fitted.held_out, cues)
    grid = Grid.of(own)
    if labels == "records":
        grid = grid.down_to(floor_of(own, grid, promise))
        return Frozen(tuple(cues), mode, promise.risk, fitted.probe, {"hidden": grid}, None, None, fitted.report)
    grids = {"hidden": grid}
    plugged = [] if promise.signal in SIGNALS else [promise.signal]
    for name in (*SIGNALS[1:-1], *plugged):
        grids[name] = Grid.of(apply_to_table(make_signal(name, None), fitting, own))
    stack = _stack(fitting, fitted, own, grids, mode, seed)
    lower = LowerGrid.of(own) if own.graded else None
    return Frozen(tuple(cues), mode, promise.risk, fitted.probe, grids, stack, lower, fitted.report)


def _stack(
    fitting: RunArrays, fitted: Fitted, own: Table, grids: dict[str, Grid], mode: Mode, seed: int
) -> Stack | None:
    """The stack, its grid added to the others."""
    parts = zip(fitting.records, by_run(own, fitted.held_out), strict=True)
    stacked = fit_stack([observations_of(record, part) for record, part in parts], fitting.labels(mode), seed=seed)
    if stacked is None:
        return None
    grids["stack"] = Grid.of(own.with_scores(stacked.held_out))
    return stacked.stack


def floor_of(own: Table, grid: Grid, promise: Promise) -> float:
    """The loosest candidate at which the fitting runs fail within a generous bound.

    The bound is twice the risk that is asked for, and at least 0.2. A threshold below it would hardly be promised, and
    a trial there would be wasted. A floor that is too low costs trials, one that is too high costs savings; neither
    touches what is promised. An exit at cue k was tried with a known probability, so each failure that was seen stands
    for 1 / probability of them (Horvitz and Thompson 1952).

    Args:
        own: The fitting runs under held-out scores.
        grid: All candidates.
        promise: Its mode and risk count.
    """
    bound = max(FLOOR_FACTOR * promise.risk, LEAST_FLOOR)
    share = often(own.runs)
    weights = np.ones(own.cues) if own.all_labelled else np.array([1 / few(int(k), share) for k in own.cue_index])
    everywhere = own.with_labels(np.ones(own.cues, dtype=bool))
    failed = everywhere.sum_at_exits(grid.thresholds, failing_cues(own, promise.mode) * weights)
    exited = everywhere.sum_at_exits(grid.thresholds, np.ones(own.cues))
    of = np.maximum(exited, 1) if promise.mode == "selective" else np.full(len(failed), own.runs)
    within = np.flatnonzero(failed <= bound * of)
    return float(grid.thresholds[within[-1] if len(within) else 0])


def fill(frozen: Frozen, calibrating: RunArrays, domains: Sequence[str], scores: Floats64) -> FittedSignals:
    """The calibration tables of a plan: nothing is fitted. scores: the plan's probe at the cues, shape (cues,)."""
    table = make_table(calibrating, scores, frozen.cues, domains)
    tables = {}
    for name, grid in frozen.grids.items():
        own = table if name == "hidden" else apply_to_table(make_signal(name, frozen.stack), calibrating, table)
        tables[name] = SignalTable(grid, own)
    return FittedSignals(frozen.probe, frozen.stack, frozen.lower, tables, frozen.report)


def recorded_scores(runs: RunArrays) -> Floats64:
    """Shape (cues,): what the frozen probe scored while these calibration runs were collected."""
    scores = [cue.score for cue in runs.cues if cue.score is not None]
    if len(scores) < len(runs.cues):
        raise ControllerError("some calibration runs have no scores of the frozen probe; collect them again")
    return np.array(scores, dtype=np.float64)


def scores_of(probe: Probe, runs: RunArrays) -> Floats64:
    """Shape (cues,): the probe's probabilities at the cues of some runs."""
    return probe.scores(runs.features) if len(runs.features) else np.zeros(0)
