"""Every signal fitted on the same split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from reasonctl.probes.files.probe_file import SignalTable
from reasonctl.probes.risk.give_up import LowerGrid
from reasonctl.probes.risk.threshold import Grid, Mode
from reasonctl.probes.signals.probe import Probe
from reasonctl.probes.signals.signals import SIGNALS, Stack, make_signal

from ..runs.arrays import RunArrays
from .probe import fit_probe
from .stack import fit_stack
from .tables import by_run, judged_table, looks_of, make_table


class FittedSignals(NamedTuple):
    """The probe, the stack (None: it could not be fitted), and every signal's grid and calibration table.

    lower: curves for giving up, by the probe's scores; None without gold answers.
    """

    probe: Probe
    stack: Stack | None
    lower: LowerGrid | None
    judged: dict[str, SignalTable]
    report: dict[str, Any]


def fit_signals(
    fitting: RunArrays, calibrating: RunArrays, cues: Sequence[str], domains: Sequence[str], mode: Mode, *, seed: int
) -> FittedSignals:
    """Every signal on the same two splits: fitted, and given its grid, on one; its table filled from the other."""
    labels = np.array(fitting.per_cue("same" if mode == "disagree" else "right"))
    problems = np.repeat(fitting.per_run("problem"), np.diff(fitting.offsets))
    probe, report, held_out = fit_probe(fitting.features, labels, problems, seed=seed)
    own = make_table(fitting, held_out, cues, domains)
    table = make_table(calibrating, scores_of(probe, calibrating), cues, domains)
    judged = {"hidden": SignalTable(Grid.of(own), table)}
    for name in SIGNALS[1:-1]:
        signal = make_signal(name, None)
        grid = Grid.of(judged_table(signal, fitting, own))
        judged[name] = SignalTable(grid, judged_table(signal, calibrating, table))
    looks = [looks_of(record, part) for record, part in zip(fitting.records, by_run(own, held_out), strict=True)]
    stacked = fit_stack(looks, labels, seed=seed)
    if stacked is not None:
        grid = Grid.of(own.with_scores(stacked.held_out))
        judged["stack"] = SignalTable(grid, judged_table(stacked.stack, calibrating, table))
    lower = LowerGrid.of(own) if own.graded else None
    return FittedSignals(probe, stacked.stack if stacked else None, lower, judged, report)


def scores_of(probe: Probe, runs: RunArrays) -> Any:
    """Shape (cues,): the probe's probabilities at the cues of some runs."""
    return probe.scores(runs.features) if len(runs.features) else np.zeros(0)
