"""Every signal fitted on the same split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reasonctl.probes.files import Scalar, SignalTable
from reasonctl.probes.risk import Floats64, Grid, LowerGrid, Mode
from reasonctl.probes.signals import SIGNALS, Probe, Stack, make_signal

from ..runs.arrays import RunArrays
from .probe import fit_probe
from .stack import fit_stack
from .tables import apply_to_table, by_run, make_table, observations_of


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
    report: dict[str, Scalar]
    """The figures of the probe's fit, for the card."""


def fit_signals(
    fitting: RunArrays, calibrating: RunArrays, cues: Sequence[str], domains: Sequence[str], mode: Mode, *, seed: int
) -> FittedSignals:
    """Every signal on the same two splits: fitted, and given its grid, on one; its table filled from the other."""
    labels = fitting.labels(mode)
    fitted = fit_probe(fitting.features, labels, fitting.problems, seed=seed)
    own = make_table(fitting, fitted.held_out, cues, domains)
    table = make_table(calibrating, scores_of(fitted.probe, calibrating), cues, domains)
    tables = {"hidden": SignalTable(Grid.of(own), table)}
    for name in SIGNALS[1:-1]:
        signal = make_signal(name, None)
        grid = Grid.of(apply_to_table(signal, fitting, own))
        tables[name] = SignalTable(grid, apply_to_table(signal, calibrating, table))
    runs = [
        observations_of(record, part)
        for record, part in zip(fitting.records, by_run(own, fitted.held_out), strict=True)
    ]
    stacked = fit_stack(runs, labels, seed=seed)
    if stacked is not None:
        grid = Grid.of(own.with_scores(stacked.held_out))
        tables["stack"] = SignalTable(grid, apply_to_table(stacked.stack, calibrating, table))
    lower = LowerGrid.of(own) if own.graded else None
    return FittedSignals(fitted.probe, stacked.stack if stacked else None, lower, tables, fitted.report)


def scores_of(probe: Probe, runs: RunArrays) -> Floats64:
    """Shape (cues,): the probe's probabilities at the cues of some runs."""
    return probe.scores(runs.features) if len(runs.features) else np.zeros(0)
