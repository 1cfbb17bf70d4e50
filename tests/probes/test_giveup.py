"""The lower exit: its curve, its promise over re-drawn sets, beside an upper threshold; wrong forms are caught."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest

from reasonctl.calibration.evaluation.redraws import redraw, verdict_on
from reasonctl.controller import ControllerError
from reasonctl.probes.risk.bounds import p_value
from reasonctl.probes.risk.give_up import GiveUp, LowerCurve, LowerGrid, choose_lower
from reasonctl.probes.risk.table import NO_EXIT, Table
from reasonctl.probes.risk.threshold import Grid, choose_threshold
from support.simulated_runs import flat, one_run, simulate

DRAWS, RUNS, RISK, CONFIDENCE = 500, 200, 0.05, 0.9


@cache
def world() -> tuple[Table, LowerGrid, Grid]:
    fitting = simulate(300, 3)
    return simulate(1500, 1), LowerGrid.of(fitting, size=60), Grid.of(fitting, size=60)


def lower_loss(pool: Table, curve: LowerCurve) -> float:
    """P(the full run is right and the rule alone gives up), by its definition."""
    given_up = np.zeros(pool.runs, dtype=bool)
    given_up[pool.run_of[curve.cues(pool)]] = True
    return float(np.mean(given_up & pool.full_right))


# The curve


def test_the_curve_is_the_logistic_one() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        c, t0, t, score = rng.uniform(0.001, 0.1), rng.uniform(-200, 800), int(rng.integers(0, 900)), rng.random()
        below = score < 1 / (1 + math.exp(-min(max(c * (t - t0), -700), 700)))
        assert LowerCurve(c, t0).below(score, t) == below
    never, always = LowerCurve(0.01, math.inf), LowerCurve(0.01, -math.inf)
    for score in (0.0, 0.3, 1.0):
        assert not never.below(score, 10**9) and always.below(score, 0)
    assert LowerCurve(0.01, 500.0).below(0.0, 0) and not LowerCurve(0.01, 500.0).below(1.0, 10**6)


def test_one_cue_at_a_time_equals_all_at_once() -> None:
    table = simulate(60, 4)
    for t0 in [50.0, 120.0, float(LowerGrid.of(table).starts[3])]:  # the last passes exactly through a cue
        curve = LowerCurve(LowerGrid.of(table).c, t0)
        one = [curve.below(s, t) for s, t in zip(table.scores, table.positions, strict=True)]
        assert one == curve.cues(table).tolist() and any(one) and not all(one)


def test_a_grid_runs_from_late_to_early_and_never_reads_the_calibration() -> None:
    fitting = simulate(200, 3)
    grid = LowerGrid.of(fitting, size=50)
    assert len(grid.starts) <= 50 and (np.diff(grid.starts) < 0).all() and grid.c > 0
    shares = [np.mean(lower_loss(fitting, LowerCurve(grid.c, t0))) for t0 in grid.starts]
    assert shares[0] == 0.0 and (np.diff(shares) >= 0).all()


def test_the_slope_follows_the_runs() -> None:
    """Scores of hopeless runs fall behind slowly or at once: the slope that saves most is another one."""
    rng = np.random.default_rng(1)

    def law(steep: float) -> Table:
        n, k = 400, 20
        right = rng.random(n) < 0.7
        logit = np.where(right[:, None], steep * (np.arange(k) - 6), -3) + rng.normal(0, 0.7, (n, k))
        scores = 1 / (1 + np.exp(-logit))
        return flat(scores, np.tile(right[:, None], (1, k)), right)

    assert LowerGrid.of(law(1.5)).c > LowerGrid.of(law(0.2)).c


# The promise


@pytest.mark.parametrize("confidence", [CONFIDENCE, None])
def test_the_promise_holds_over_redraws(confidence: float | None) -> None:
    pool, grid, _ = world()
    chosen = [choose_lower(table, grid, RISK, confidence) for table in redraw(pool, RUNS, DRAWS, seed=1)]
    losses = {found.curve.t0: lower_loss(pool, found.curve) for found in chosen}
    found = verdict_on([losses[c.curve.t0] for c in chosen], RISK, confidence)
    print(f"lower exit, {confidence}: {found.violations:.3f} (nominal {found.nominal:.3f}, bound {found.bound:.3f})")
    assert found.holds
    assert np.mean([math.isfinite(c.curve.t0) for c in chosen]) > 0.95
    if confidence is None:
        assert found.violations > 0.8 * RISK  # not idle: the level is exact up to 1 / (n + 1)


def test_both_promises_hold_for_the_pair() -> None:
    """P(harm) of the pair is at most the sum of the risks, in at least 2 * 0.9 - 1 of the draws."""
    pool, lower, upper = world()
    worst, saved = [], []
    for table in redraw(pool, RUNS, 100, seed=2):
        curve = choose_lower(table, lower, RISK, CONFIDENCE).curve
        threshold = choose_threshold(table, upper, "harm", 0.1, CONFIDENCE)
        exits, gave_up = pool.first_of(threshold.value, curve.cues(pool))
        out, alone = pool.outcomes(exits), pool.outcomes(pool.first_exit(threshold.value))
        assert not (out.harm & ~gave_up & ~alone.harm).any()  # an exit of the pair harms where it would alone
        assert float((gave_up & pool.full_right).mean()) <= lower_loss(pool, curve)
        worst.append(float(out.harm.mean()))
        saved.append(float((alone.tokens - out.tokens).mean()))
    assert verdict_on(worst, RISK + 0.1, 0.8).holds
    assert np.mean(saved) > 1  # tokens per run that the lower exit adds


def one_step_early(table: Table) -> float:
    """The curve after the last accepted one."""
    grid = world()[1]
    curves = [LowerCurve(grid.c, t0) for t0 in grid.starts]
    at = next((i for i, c in enumerate(curves) if lower_loss(table, c) > RISK), len(curves) - 1)
    return curves[at].t0


def behind_an_upper_rule(table: Table) -> float:
    """Calibrated for what is left to give up behind a loose upper threshold, deployed with a stricter one."""
    grid, best = world()[1], math.inf
    for t0 in grid.starts:
        _, gave_up = table.first_of(0.1, LowerCurve(grid.c, t0).cues(table))
        if not refutes_above(int((gave_up & table.full_right).sum()), table.runs):
            break
        best = float(t0)
    return best


def refutes_above(failed: int, n: int) -> bool:
    return p_value(failed, n, RISK) <= 1 - CONFIDENCE


@pytest.mark.parametrize("wrong", [one_step_early, behind_an_upper_rule])
def test_wrong_forms_are_caught(wrong) -> None:
    pool, grid, _ = world()
    starts = [wrong(table) for table in redraw(pool, RUNS, 100, seed=3)]
    losses = {t0: lower_loss(pool, LowerCurve(grid.c, t0)) for t0 in set(starts)}
    found = verdict_on([losses[t0] for t0 in starts], RISK, CONFIDENCE)
    print(f"{wrong.__name__}: {found.violations:.3f} (bound {found.bound:.3f})")
    assert not found.holds


# Exact numbers and refusals


def hopeful(runs: int) -> Table:
    return one_run([0.2, 0.1], [False, False], full_right=False, runs=runs)


def test_too_few_runs_never_give_up_and_say_how_many_are_missing() -> None:
    grid = LowerGrid(0.01, np.array([500.0, 100.0, -900.0]))
    # At 100 tokens every run already gives up at its first cue: an earlier start saves no more.
    enough = choose_lower(hopeful(45), grid, 0.05, 0.9)
    assert (enough.curve.t0, enough.failures, enough.runs, enough.more_runs) == (100.0, 0, 45, 0)
    few = choose_lower(hopeful(40), grid, 0.05, 0.9)
    assert few.curve.t0 == math.inf and few.more_runs == 5 and "never give up" in few.why and "5 more runs" in few.why
    assert choose_lower(hopeful(19), grid, 0.05, None).curve.t0 == -math.inf  # no run is right: nothing to lose
    marginal = choose_lower(hopeful(18), grid, 0.05, None)
    assert marginal.curve.t0 == math.inf and marginal.more_runs == 1
    lost = choose_lower(one_run([0.1], [True], runs=100), LowerGrid(0.01, np.array([-900.0])), 0.05, 0.9)
    assert lost.curve.t0 == math.inf and lost.more_runs is None and lost.failures == 100


def test_the_marginal_start_is_the_stated_order_statistic() -> None:
    positions = np.arange(0, 190, 10)
    table = one_run([0.5], [True], runs=19)
    table = Table(**{**table.arrays(), "positions": positions})  # at score 0.5 the curve passes at t0 = position
    found = choose_lower(table, LowerGrid(0.01, np.array([0.0])), 0.1, None)  # ceil(20 * 0.9) = 18th of 19
    assert found.curve.t0 == 170.0 and found.failures == 1
    assert found.curve.cues(table).tolist() == [False] * 18 + [True]


def test_the_pair_tells_who_fired() -> None:
    table = one_run([0.1, 0.9], [False, True], runs=2)
    curve = LowerCurve(5.0, 0.4)  # below sigma(-2) at token 0, below sigma(3) = 0.95 at token 1
    assert curve.cues(table).tolist() == [True, True, True, True]
    exits, gave_up = table.first_of(0.5, curve.cues(table))
    assert exits.tolist() == [0, 0] and gave_up.tolist() == [True, True]
    exits, gave_up = table.first_of(0.05, curve.cues(table))
    assert exits.tolist() == [0, 0] and gave_up.tolist() == [False, False]  # both at one cue: an exit
    exits, gave_up = table.first_of(0.95, LowerCurve(5.0, math.inf).cues(table))
    assert exits.tolist() == [NO_EXIT] * 2 and gave_up.tolist() == [False, False]


def test_bad_requests_are_refused() -> None:
    table, grid = simulate(60, 1), LowerGrid(0.01, np.array([100.0]))
    cases = [
        (lambda: choose_lower(table, grid, 0.0, 0.9), "risk is 0.0"),
        (lambda: choose_lower(Table(**{**table.arrays(), "graded": False}), grid, 0.05, 0.9), "gold answers"),
        (lambda: choose_lower(table.select([0, 0]), grid, 0.05, 0.9), "2 runs of 1 problems"),
        (lambda: choose_lower(table.with_scores(table.scores * 2), grid, 0.05, 0.9), "between 0 and 1"),
        (lambda: LowerCurve(0.0, 1.0), "slope"),
        (lambda: LowerGrid(0.01, np.array([1.0, 2.0])), "strictly fall"),
        (lambda: LowerGrid(-1.0, np.array([1.0])), "slope above 0"),
        (lambda: LowerGrid.of(table, size=1), "at least 2 starts"),
    ]
    for make, says in cases:
        with pytest.raises(ControllerError, match=says):
            make()
    assert isinstance(choose_lower(table, grid, 0.5, 0.5), GiveUp)
