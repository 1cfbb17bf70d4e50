"""What baseline rules would have done, under the same promise and on the same recorded runs."""

from __future__ import annotations

import numpy as np
import pytest

from reasonctl.calibration.evaluation.baselines import compare, evaluate, fixed_at, fixed_curve, verdict
from reasonctl.controller import ControllerError
from reasonctl.probes.promise import Promise
from reasonctl.probes.risk.table import Table
from reasonctl.probes.risk.threshold import Grid, choose_threshold
from support.simulated_runs import one_run, simulate

RISK, CONFIDENCE = 0.1, 0.9
PROMISE = Promise(risk=RISK, confidence=CONFIDENCE)


def test_baseline_rules_where_the_probe_knows_more() -> None:
    tables = [simulate(n, seed) for n, seed in ((400, 21), (400, 22), (2000, 23))]
    results = compare(*tables, PROMISE)
    by = {result.name: result for result in results}
    assert list(by) == ["probe", "cue index", "index + word", "oracle"]
    assert by["oracle"].harm == 0.0 and by["probe"].saved > by["cue index"].saved > 0
    assert "more than every cheap rule" in verdict(results)
    assert by["probe"].harm < 1.3 * RISK and by["probe"].accuracy == pytest.approx(
        tables[2].full_right.mean() - by["probe"].harm + by["probe"].help
    )
    noise = [t.with_scores(np.random.default_rng(9).random(t.cues)) for t in tables]
    assert "does not clearly beat" in verdict(compare(*noise, PROMISE))


def test_without_a_fitting_split_the_probe_keeps_its_own_grid() -> None:
    _, calibration, evaluation = (simulate(n, seed) for n, seed in ((5, 21), (400, 22), (500, 23)))
    grid = Grid.of(simulate(300, 25))
    results = compare(None, calibration, evaluation, PROMISE, grid=grid)
    assert [result.name for result in results] == ["probe", "cue index", "oracle"]
    assert results[0].threshold == choose_threshold(calibration, grid, "harm", RISK, CONFIDENCE)
    with pytest.raises(ControllerError, match="grid or the fitting split"):
        compare(None, calibration, evaluation, PROMISE)


def test_the_cue_index_may_settle_for_the_first_cue() -> None:
    right = one_run([0.5, 0.5], [True, True], runs=60)
    (index,) = (r for r in compare(right, right, right, PROMISE) if r.name == "cue index")
    assert index.exit_rate == 1.0 and index.saved == 48


def test_text_features_are_used() -> None:
    tables = [simulate(n, seed) for n, seed in ((300, 21), (300, 22), (500, 23))]
    extra = [table.right[:, None] + np.random.default_rng(1).normal(0, 0.3, (table.cues, 1)) for table in tables]
    results = compare(*tables, PROMISE, extra=extra)
    by = {result.name: result for result in results}
    assert by["index + word + text"].saved > by["index + word"].saved
    with pytest.raises(ControllerError, match="one finite row per cue"):
        compare(*tables, PROMISE, extra=[e[1:] for e in extra])


def test_fixed_cues_and_the_line_between_them() -> None:
    table = simulate(500, 24)
    curve = fixed_curve(table, "harm")
    assert (curve[0].cue, curve[0].saved, curve[-1].cue) == (-1, 0.0, 0)
    third = next(point for point in curve if point.cue == 3)
    exits = np.where(np.diff(table.offsets) > 3, 3, -1)
    assert third.saved == evaluate("", table, exits, "harm").saved and third.failed == rate_of(table, exits)
    for a, b in zip(curve[5:-1], curve[6:], strict=True):
        if a.failed < b.failed:
            middle = fixed_at([a, b], (a.failed + b.failed) / 2)
            assert middle == pytest.approx(max(a.saved, (a.saved + b.saved) / 2))
    assert fixed_at(curve, 0.0) >= 0.0 and fixed_at(curve, 1.0) == max(point.saved for point in curve)


def rate_of(table: Table, exits: np.ndarray) -> float:
    return float(table.outcomes(exits).harm.mean())
