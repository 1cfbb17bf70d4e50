"""Promises hold over re-drawn calibration sets, and wrong procedures are caught by the same check.

Truth: in closed form on a toy law; a pool's own rate, exact, for sets drawn from it with replacement. A true promise
at its very limit is called broken with probability 0.0013 (`verdict_on`: nominal + 3 standard errors); seeds are fixed.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest

from reasonctl.calibration.evaluation.redraws import Procedure, check, check_all, redraw, true_rates, verdict_on
from reasonctl.calibration.fitting.probe import fit_probe
from reasonctl.controller import ControllerError
from reasonctl.probes.risk.table import Table
from reasonctl.probes.risk.threshold import MODES, Grid, Mode, choose_threshold, failing_cues, failures
from support.simulated_runs import flat, one_run, simulate, two_cues, two_cues_envelope, two_cues_risk

DRAWS, RUNS, RISK, CONFIDENCE = 500, 200, 0.1, 0.9
LIMITS: dict[str, float] = {"harm": 0.1, "wrong": 0.1, "selective": 0.18, "disagree": 0.2, "event": 0.1}


# The re-draws themselves


def test_sets_are_drawn_with_replacement_and_copies_are_new_problems() -> None:
    pool = simulate(50, 1)
    tables = list(redraw(pool, 80, 30, seed=3))
    assert len(tables) == 30 and all(table.runs == 80 for table in tables)
    assert all((table.problem == np.arange(80)).all() for table in tables)
    seen = np.concatenate([table.full_tokens for table in tables])
    assert abs(seen.mean() - pool.full_tokens.mean()) < 4 * pool.full_tokens.std() / math.sqrt(len(seen))
    again = next(redraw(pool, 80, 1, seed=3))
    assert (again.scores == tables[0].scores).all() and tables[0].cues != tables[1].cues
    with pytest.raises(ControllerError, match="pool of 0"):
        next(redraw(pool.select([]), 5, 1, seed=0))


def test_the_verdict_is_the_stated_bound() -> None:
    rates = np.array([0.2] * 60 + [0.1] * 440)
    found = verdict_on(rates, 0.1, 0.9)
    assert found.violations == 0.12 and found.nominal == pytest.approx(0.1) and found.holds
    assert found.bound == pytest.approx(0.1 + 3 * math.sqrt(0.1 * 0.9 / 500))
    assert not verdict_on(np.array([0.2] * 75 + [0.1] * 425), 0.1, 0.9).holds
    mean = verdict_on(rates, 0.1, None)
    assert mean.violations == pytest.approx(0.112) and not mean.holds
    assert mean.bound == pytest.approx(0.1 + 3 * rates.std(ddof=1) / math.sqrt(500))


def test_true_rates_count_the_pool() -> None:
    pool, thresholds = simulate(200, 4), [-math.inf, 0.3, 0.9, math.inf]
    for mode in ("harm", "wrong", "disagree", "selective"):
        counts = [failures(pool, mode, value) for value in thresholds]
        assert true_rates(pool, mode, thresholds).tolist() == [k / n if n else 0.0 for k, n in counts]
    wrong = pool.scores[~pool.right]
    assert true_rates(pool, "event", thresholds) == pytest.approx([np.mean(wrong > value) for value in thresholds])


# A toy law with its truth in closed form


def test_the_closed_form_is_the_laws() -> None:
    table, thresholds = two_cues(50_000, 1), np.array([0.2, 0.5, 0.8, 0.95])
    for mode in MODES:
        error = 4 * np.sqrt(0.25 / 50_000) / (1 if mode != "selective" else 0.09)
        assert true_rates(table, mode, thresholds) == pytest.approx(two_cues_risk(mode, thresholds), abs=error)
    for mode in ("harm", "wrong"):
        highest = table.highest(failing_cues(table, mode))
        found = [np.mean(highest > value) for value in thresholds]
        assert found == pytest.approx(two_cues_envelope(mode, thresholds), abs=0.009)


@cache
def toy_draws() -> tuple[Grid, list[Table]]:
    runs = two_cues(DRAWS * RUNS, seed=2)
    return Grid.of(two_cues(200, seed=3), size=60), [
        runs.select(np.arange(i * RUNS, (i + 1) * RUNS)) for i in range(DRAWS)
    ]


@pytest.mark.parametrize("mode", ["harm", "wrong", "selective", "disagree"])
def test_toy_promises_with_a_confidence(mode: Mode) -> None:
    grid, draws = toy_draws()
    values = np.array([choose_threshold(table, grid, mode, LIMITS[mode], CONFIDENCE).loosest for table in draws])
    found = verdict_on(two_cues_risk(mode, values), LIMITS[mode], CONFIDENCE)
    print(f"toy {mode}: {found.violations:.3f} of {DRAWS} draws above {LIMITS[mode]} (bound {found.bound:.3f})")
    assert found.holds and np.isfinite(values).mean() > 0.8  # "never exit" would keep any promise


@pytest.mark.parametrize("mode", ["harm", "wrong", "disagree", "event"])
def test_toy_promises_on_average(mode: Mode) -> None:
    grid, draws = toy_draws()
    values = np.array([choose_threshold(table, grid, mode, LIMITS[mode], None).value for table in draws])
    found = verdict_on(two_cues_risk(mode, values), LIMITS[mode], None)
    print(f"toy {mode}, marginal: {found.violations:.4f} against {LIMITS[mode]}")
    assert found.holds
    if mode in ("harm", "wrong"):  # of "some failing cue fires" the level is exact, between risk - 1 / (n + 1) and risk
        exact = verdict_on(two_cues_envelope(mode, values), LIMITS[mode], None)
        assert exact.holds and exact.violations > 2 * LIMITS[mode] - exact.bound - 1 / (RUNS + 1)


# Sets drawn with replacement from a pool of runs whose cues depend on each other


@pytest.mark.parametrize("separation", [0.9, 2.2])
def test_promises_hold_on_a_pool(separation: float) -> None:
    pool, grid = simulate(1500, 1, separation), Grid.of(simulate(300, 3, separation), size=60)
    rows = check_all(pool, grid, RISK, CONFIDENCE, runs=RUNS, draws=DRAWS)
    assert [(row.mode, row.confidence) for row in rows] == [
        ("harm", 0.9),
        ("wrong", 0.9),
        ("selective", 0.9),
        ("disagree", 0.9),
        ("harm", None),
        ("wrong", None),
        ("disagree", None),
        ("event", None),
    ]
    for row in rows:
        form = "on average" if row.confidence is None else f"violations at {row.confidence}"
        print(
            f"{row.mode} {form}: {row.verdict.violations:.3f} (nominal {row.verdict.nominal:.3f}, bound "
            f"{row.verdict.bound:.3f}); LYNX {row.lynx.violations:.3f}; saved {row.saved:.3f}, never {row.never:.2f}"
        )
    assert all(row.verdict.holds for row in rows)
    by = {(row.mode, row.confidence): row for row in rows}
    assert by["harm", 0.9].never < 0.1 and by["harm", 0.9].saved > 0.05
    if separation == 0.9:  # with a weak probe LYNX's per-cue level says little of a run
        assert not by["harm", 0.9].lynx.holds and not by["wrong", None].lynx.holds


@pytest.mark.slow
@pytest.mark.parametrize("separation", [0.9, 1.5, 2.2])
@pytest.mark.parametrize("risk", [0.05, 0.1])
def test_promises_hold_on_large_pools(separation: float, risk: float) -> None:
    pool, grid = simulate(5000, 11, separation), Grid.of(simulate(500, 13, separation))
    rows = check_all(pool, grid, risk, CONFIDENCE, runs=400, draws=1000, seed=5)
    assert all(row.verdict.holds for row in rows), [(row.mode, row.confidence, row.verdict) for row in rows]


# Wrong procedures, on the same kind of draws


@cache
def world() -> tuple[Table, Grid]:
    return simulate(4000, 1, 0.9), Grid.of(simulate(300, 3, 0.9), size=100)


def ours(table: Table) -> float:
    return choose_threshold(table, world()[1], "harm", RISK, CONFIDENCE).loosest


def per_cue(table: Table) -> float:
    """LYNX's threshold."""
    return choose_threshold(table, world()[1], "event", RISK, None).value


def loosest_within(table: Table) -> float:
    """The loosest threshold whose observed rate is within the risk: picked after looking, without a bound."""
    thresholds = world()[1].thresholds
    return float(min(thresholds[true_rates(table, "harm", thresholds) <= RISK], default=math.inf))


def without_a_test(table: Table) -> float:
    """A fixed sequence that stops at the first observed rate above the risk."""
    thresholds = world()[1].thresholds
    above = true_rates(table, "harm", thresholds) > RISK
    last = int(np.argmax(above)) if above.any() else len(thresholds)
    return float(thresholds[last - 1]) if last else math.inf


def best_of_ten(table: Table) -> float:
    """Calibrate on ten parts, look, keep the threshold that saves most."""
    return min(ours(table.select(np.arange(i, table.runs, 10))) for i in range(10))


@pytest.mark.parametrize(
    ("procedure", "runs", "right"),
    [
        (ours, 300, True),
        (per_cue, 300, False),
        (loosest_within, 300, False),
        (without_a_test, 300, False),
        (best_of_ten, 1000, False),
    ],
)
def test_the_check_tells_right_from_wrong(procedure: Procedure, runs: int, right: bool) -> None:
    found = check(world()[0], procedure, "harm", RISK, CONFIDENCE, runs=runs, draws=100, seed=1)
    print(f"{procedure.__name__}: {found.violations:.3f} of draws above {RISK} (bound {found.bound:.3f})")
    assert found.holds == right


@pytest.mark.parametrize("loose", [0, 1])
def test_one_grid_step_too_loose_is_caught(loose: int) -> None:
    """The true harm of the toy law is .02, .05, .08 down this grid, then .16: one step across the risk of .1."""
    fine = np.linspace(1, 0, 100_001)
    harm = two_cues_risk("harm", fine)
    thresholds = np.array([fine[int(np.argmax(harm >= level))] for level in (0.02, 0.05, 0.08, 0.16)])
    grid = Grid(thresholds, np.ones(4))

    def chosen(table: Table) -> float:
        value = choose_threshold(table, grid, "harm", RISK, CONFIDENCE).loosest
        at = -1 if value == math.inf else int(np.flatnonzero(thresholds == value)[0])
        return float(thresholds[min(at + loose, 3)])

    values = np.array([chosen(table) for table in toy_draws()[1]])
    found = verdict_on(two_cues_risk("harm", values), RISK, CONFIDENCE)
    print(f"{loose} steps too loose: {found.violations:.3f} of draws above {RISK} (bound {found.bound:.3f})")
    assert found.holds == (loose == 0)


@pytest.mark.parametrize("clamped", [False, True])
@pytest.mark.parametrize("per_cue", [False, True])
def test_a_clamped_quantile_is_caught(clamped: bool, per_cue: bool) -> None:
    """5 runs of one wrong cue each with a uniform score: the index is 6; clamped, the level is 1/6, not 1/10."""
    rng = np.random.default_rng(0)
    values = []
    for _ in range(DRAWS):
        table = flat(rng.random((5, 1)), np.zeros((5, 1), dtype=bool))
        mode: Mode = "event" if per_cue else "wrong"
        exact = choose_threshold(table, Grid(np.array([0.5]), np.ones(1)), mode, RISK, None).value
        values.append(min(exact, float(table.scores.max())) if clamped else exact)
    found = verdict_on(1 - np.minimum(values, 1.0), RISK, None)
    print(f"clamped {clamped}: mean risk {found.violations:.3f} against {RISK}")
    assert found.holds == (not clamped)


FEATURES = 60


def overfitted(shared: bool, calibrate_on: str) -> list[float]:
    """True rates where a linear probe is fitted on 60 runs of 4 cues, and calibrated on ...

    "fresh runs", the "same cues", or "other cues" of the same runs. shared: cues of a run share most of their label
    and of their features, so that a probe knows a run's other cues once it has seen some.
    """
    rng = np.random.default_rng(7)

    def law(n: int) -> tuple[np.ndarray, np.ndarray]:
        common, own = rng.normal(size=(n, 1, FEATURES)), rng.normal(size=(n, 4, FEATURES))
        x = np.sqrt(0.95) * common + np.sqrt(0.05) * own if shared else own
        luck = rng.normal(size=(n, 1)) if shared else rng.normal(size=(n, 4))
        return x, x[:, :, 0] + 2 * luck + 0.3 * rng.normal(size=(n, 4)) > -1

    def table(x: np.ndarray, right: np.ndarray, weights: np.ndarray) -> Table:
        return flat(x @ weights, right)

    truth, grid, rates = law(1500), Grid(np.linspace(2, -1, 60), np.ones(60)), []
    for _ in range(100):
        (x, right), fresh = law(60), law(60)
        seen = slice(0, 2) if calibrate_on == "other cues" else slice(None)
        rows = x[:, seen].reshape(-1, FEATURES)
        weights = np.linalg.lstsq(rows, right[:, seen].ravel() - 0.5, rcond=None)[0]
        held = {"fresh runs": fresh, "same cues": (x, right), "other cues": (x[:, 2:], right[:, 2:])}[calibrate_on]
        value = choose_threshold(table(*held, weights), grid, "wrong", RISK, CONFIDENCE).loosest
        # Measured on as many cues a run as it was calibrated on.
        scored = (truth[0][:, 2:], truth[1][:, 2:]) if calibrate_on == "other cues" else truth
        rates.append(float(true_rates(table(*scored, weights), "wrong", [value])[0]))
    return rates


@pytest.mark.parametrize(
    ("shared", "calibrate_on", "right"),
    [(False, "fresh runs", True), (False, "same cues", False), (True, "fresh runs", True), (True, "other cues", False)],
)
def test_calibrating_on_what_was_fitted_is_caught(shared: bool, calibrate_on: str, right: bool) -> None:
    rates = overfitted(shared, calibrate_on)
    found = verdict_on(rates, RISK, CONFIDENCE)
    print(f"calibrated on {calibrate_on}: {found.violations:.3f} of draws above {RISK}; mean risk {np.mean(rates):.3f}")
    assert found.holds == right


@pytest.mark.parametrize("inclusive", [False, True])
def test_an_inclusive_comparison_is_caught_on_ties(inclusive: bool) -> None:
    pool = world()[0].with_scores(np.round(world()[0].scores, 1))
    grid = Grid.of(simulate(300, 3, 0.9).with_scores(np.round(simulate(300, 3, 0.9).scores, 1)))

    def deployed(table: Table) -> float:
        value = choose_threshold(table, grid, "harm", RISK, CONFIDENCE).loosest
        return math.nextafter(value, -math.inf) if inclusive else value

    assert check(pool, deployed, "harm", RISK, CONFIDENCE, runs=300, draws=200).holds == (not inclusive)
    coarse = judge_marginal(inclusive)
    assert coarse.holds == (not inclusive)


def judge_marginal(inclusive: bool):
    """29 runs whose one wrong cue scores 0, 0.1, ... 1: split conformal, deployed with > or with >=."""
    pool = one_run([0.0], [False], runs=1100).with_scores(np.arange(1100) % 11 / 10)

    def deployed(table: Table) -> float:
        value = choose_threshold(table, Grid(np.array([0.5]), np.ones(1)), "wrong", RISK, None).value
        return math.nextafter(value, -math.inf) if inclusive else value

    return check(pool, deployed, "wrong", RISK, None, runs=29, draws=300)


def test_a_probe_fitted_on_permuted_labels_still_keeps_the_promise() -> None:
    pool, rng = simulate(3000, 1), np.random.default_rng(4)

    def features(table: Table) -> np.ndarray:
        logit = np.log(table.scores / (1 - table.scores))
        return np.column_stack([logit, np.cos(3 * logit), table.cue_index])

    fitting = simulate(60, seed=5)
    labels = rng.permutation(fitting.right)
    probe, report, held_out = fit_probe(features(fitting), labels, fitting.problem[fitting.run_of], seed=0)
    assert abs(report["auc"] - 0.5) < 0.08
    grid = Grid.of(fitting.with_scores(held_out), 100)
    scored = pool.with_scores(probe.scores(features(pool)))

    def chosen(table: Table) -> float:
        return choose_threshold(table, grid, "harm", RISK, CONFIDENCE).value

    found = check(scored, chosen, "harm", RISK, CONFIDENCE, runs=200, draws=100)
    print(f"permuted labels: {found.violations:.3f} of draws above {RISK}")
    assert found.holds
