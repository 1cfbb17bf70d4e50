"""A second opinion on a calibration: MAPIE's fixed-sequence test on the same runs, before a probe file is written."""

from __future__ import annotations

from mapie.risk_control import FWERFixedSequenceTesting, control_fwer
from scipy.stats import binom

from reasonctl.controller import ControllerError
from reasonctl.probes import Promise
from reasonctl.probes.risk import Grid, Table, accepted, failures_at

ROUNDING = 1e-12
"""Largest difference of two exact computations of one p-value."""


def check_with_mapie(table: Table, grid: Grid, promise: Promise) -> None:
    """Compare the thresholds that we accept for a promise with those that MAPIE accepts.

    Ours is a few lines of numpy, so that attaching a probe needs no MAPIE. Promises without a confidence, and the
    mode `event`, use no sequence of tests: nothing is compared. Runs with a stopping design are compared at the level
    that the boundary of their last analysis has by itself.

    Args:
        table: The calibration runs.
        grid: The thresholds that are tested.
        promise: What is asked for.

    Raises:
        ControllerError: The two disagree.
    """
    if promise.confidence is None or promise.mode == "event":
        return
    table, confidence, stopping = table.analysed(), promise.confidence, table.stopping
    failed, n = failures_at(table, promise.mode, grid.thresholds)
    if stopping is None or promise.mode == "selective":
        confidence = confidence if stopping is None else stopping.split(confidence)
        ours, level = accepted(failed, n, promise.risk, confidence), 1 - confidence
    else:
        ours = accepted(failed, n, promise.risk, confidence, stopping)
        level = float(binom.cdf(stopping.most_failures(promise.risk, confidence), stopping.runs, promise.risk))
    if level <= 0.0:
        return  # nothing may be accepted, and MAPIE takes no such level
    p_values = [float(binom.cdf(f, k, promise.risk)) if k else 1.0 for f, k in zip(failed, n, strict=True)]
    theirs = len(control_fwer(p_values, level, FWERFixedSequenceTesting()))
    # Where they part at a p-value that is the level itself, but for rounding, either is right.
    tied = ours != theirs and abs(p_values[min(ours, theirs)] - level) < ROUNDING
    if ours != theirs and not tied:
        raise ControllerError(
            f"our fixed-sequence test accepts {ours} thresholds and MAPIE's accepts {theirs}, so no probe was written; "
            "please report it with the collected runs, which are kept"
        )
