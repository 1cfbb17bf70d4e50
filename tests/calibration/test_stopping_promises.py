"""Promises hold wherever collecting stops, over re-drawn runs; wrong ways to stop are caught by the same check.

A draw breaks a promise if the loosest accepted threshold has a true risk above the one asked for. "At any analysis"
counts a draw where some analysis does so, which bounds every way to stop. Sharp: the only candidate is the strictest
threshold whose true risk is too large, the worst case of a promise. A true promise at its very limit is called broken
with probability 0.0013 (`verdict_on`: nominal + 3 standard errors); seeds are fixed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from reasonctl.calibration.evaluation.redraws import Verdict, redraw, true_rates, verdict_on
from reasonctl.calibration.runs.splits import split
from reasonctl.probes.risk.give_up import LowerCurve, LowerGrid, choose_lower
from reasonctl.probes.risk.stopping import Stopping, first_analysis, planned
from reasonctl.probes.risk.table import Table
from reasonctl.probes.risk.threshold import Grid, Mode, choose_threshold
from support.simulated_runs import flat, simulate, two_domains

pytestmark = pytest.mark.slow
DRAWS, MOST, CONFIDENCE = 500, 300, 0.9
RISKS: dict[Mode, float] = {"harm": 0.1, "wrong": 0.1, "selective": 0.18, "disagree": 0.2}
ANALYSES = planned(first_analysis(0.1, CONFIDENCE), MOST)


@cache
def world() -> tuple[Table, Grid, list[Table]]:
    """The pool, the grid, and its re-drawn sequences of runs. The probe is a weak one: failures are near the risk."""
    pool = simulate(1500, 1, 0.9)
    return pool, Grid.of(simulate(300, 3, 0.9), size=60), list(redraw(pool, MOST, DRAWS, seed=7))


def until(table: Table, analyses: Sequence[int], design: str = "sequential") -> Table:
    """The runs up to the last of these analyses, with the design."""
    counted = table.select(np.arange(analyses[-1]))
    return counted if design == "none" else replace(counted, stopping=Stopping(design, tuple(analyses)))


def at_every_analysis(table: Table, design: str = "sequential") -> list[Table]:
    """What collecting would have been at each analysis."""
    return [until(table, ANALYSES[: k + 1], design) for k in range(len(ANALYSES))]


def loosest(table: Table, mode: Mode, risk: float | None = None, grid: Grid | None = None) -> float:
    """The loosest threshold that the runs allow."""
    return choose_threshold(table, grid or world()[1], mode, risk or RISKS[mode], CONFIDENCE).loosest


@cache
def sharp(mode: Mode) -> Grid:
    """One candidate: the strictest threshold whose true risk is above the one asked for."""
    pool = world()[0]
    values = np.unique(pool.scores)[::-1]
    above = true_rates(pool, mode, values) > RISKS[mode]
    return Grid(values[[int(np.argmax(above))]], np.ones(1))


def worst_of_all(mode: Mode, design: str, grid: Grid) -> Verdict:
    """The verdict on whoever stops at the worst analysis: the largest true risk of any of them."""
    pool, _, draws = world()
    rates = []
    for table in draws:
        values = [loosest(one, mode, grid=grid) for one in at_every_analysis(table, design)]
        rates.append(float(true_rates(pool, mode, values).max()))
    found = verdict_on(rates, RISKS[mode], CONFIDENCE)
    print(f"{mode}, {design}: at any analysis {found.violations:.3f} of {DRAWS} draws (bound {found.bound:.3f})")
    return found


@pytest.mark.parametrize("mode", list(RISKS))
@pytest.mark.parametrize("is_sharp", [False, True])
def test_promises_hold_at_any_analysis(mode: Mode, is_sharp: bool) -> None:
    assert worst_of_all(mode, "sequential", sharp(mode) if is_sharp else world()[1]).holds


@pytest.mark.parametrize("mode", list(RISKS))
def test_the_fixed_boundary_at_every_analysis_is_caught(mode: Mode) -> None:
    """Peeking: each analysis is read as if its number of runs had been fixed."""
    assert not worst_of_all(mode, "none", sharp(mode)).holds


@cache
def stopped() -> list[Table]:
    """Collecting until harm of 0.1 can be promised with a tenth of the tokens saved, or the most runs are collected."""
    return [_stopped(table) for table in world()[2]]


def _stopped(table: Table) -> Table:
    for one in at_every_analysis(table):
        value = choose_threshold(one, world()[1], "harm", RISKS["harm"], CONFIDENCE).value
        if value < math.inf and one.outcomes(one.first_exit(value)).tokens.sum() < 0.9 * one.full_tokens.sum():
            return one
    return one


@pytest.mark.parametrize(("mode", "risk"), [*RISKS.items(), ("harm", 0.05), ("harm", 0.2), ("wrong", 0.2)])
def test_every_promise_of_a_stopped_file_holds(mode: Mode, risk: float) -> None:
    """Another mode and another risk than those that collecting stopped for."""
    tables = stopped()
    values = [loosest(table, mode, risk) for table in tables]
    found = verdict_on(true_rates(world()[0], mode, values), risk, CONFIDENCE)
    runs = np.array([table.runs for table in tables])
    promised = float(np.isfinite(values).mean())
    print(
        f"{mode} {risk}: {found.violations:.3f} above (bound {found.bound:.3f}), {promised:.2f} promise; "
        f"runs: mean {runs.mean():.0f}, median {np.median(runs):.0f}"
    )
    assert found.holds
    assert (mode, risk) != ("harm", 0.1) or promised > 0.9  # "never exit" would keep any promise


@pytest.mark.parametrize("mode", list(RISKS))
def test_promises_of_a_fixed_number_hold(mode: Mode) -> None:
    tables = [until(table, (MOST,), "fixed") for table in world()[2]]
    values = [loosest(table, mode) for table in tables]
    assert verdict_on(true_rates(world()[0], mode, values), RISKS[mode], CONFIDENCE).holds
    assert np.isfinite(values).mean() > 0.8


@pytest.mark.parametrize("mode", ["harm", "wrong", "disagree"])
def test_a_raised_number_promises_what_the_first_one_left(mode: Mode) -> None:
    """50 runs are read; where they promise nothing, 50 more are collected, and so on. Without a design it is caught."""
    pool, _, draws = world()
    rates: dict[str, list[float]] = {"fixed": [], "none": []}
    for table in draws:
        for design, found in rates.items():
            read = [until(table, range(50, n + 1, 50), design) for n in range(50, MOST + 1, 50)]
            values = [loosest(one, mode, grid=sharp(mode)) for one in read]
            found.append(float(true_rates(pool, mode, values).max()))
    verdicts = {design: verdict_on(found, RISKS[mode], CONFIDENCE) for design, found in rates.items()}
    print(f"{mode}: " + ", ".join(f"{name} {one.violations:.3f}" for name, one in verdicts.items()))
    assert verdicts["fixed"].holds and not verdicts["none"].holds


def test_promises_for_a_domain_hold_at_any_analysis() -> None:
    pool, grid = two_domains(1500, 1), Grid.of(two_domains(400, 3), size=60)
    rates: list[list[float]] = [[], []]
    for table in redraw(pool, MOST, DRAWS, seed=9):
        for domain, found in enumerate(rates):
            values = [
                choose_threshold(one.in_domain(domain), grid, "harm", 0.2, CONFIDENCE).loosest
                for one in at_every_analysis(table)
            ]
            found.append(float(true_rates(pool.in_domain(domain), "harm", values).max()))
    for domain, found in enumerate(rates):
        verdict = verdict_on(found, 0.2, CONFIDENCE)
        print(f"domain {domain}: {verdict.violations:.3f} (bound {verdict.bound:.3f})")
        assert verdict.holds


def test_giving_up_holds_at_any_analysis() -> None:
    pool, _, draws = world()
    grid = LowerGrid.of(simulate(300, 3, 0.9))
    rates: dict[str, list[float]] = {"sequential": [], "none": []}
    for table in draws:
        for design, found in rates.items():
            curves = [choose_lower(one, grid, 0.1, CONFIDENCE).curve for one in at_every_analysis(table, design)]
            found.append(max(map(given_up, curves)))
    for found in rates.values():
        print(f"giving up: {verdict_on(found, 0.1, CONFIDENCE).violations:.3f}")
    assert verdict_on(rates["sequential"], 0.1, CONFIDENCE).holds


@cache
def given_up(curve: LowerCurve) -> float:
    """The pool's own share of right runs that a curve gives up."""
    pool = world()[0]
    return float((pool.full_right & (pool.first_where(curve.cues(pool)) >= 0)).mean())


# Wrong orders, wrong roles


@pytest.mark.parametrize("by_completion", [False, True])
def test_short_runs_first_is_caught(by_completion: bool) -> None:
    """Long runs fail four times as often, and a time limit ends the job while most of those begun are under way.

    Counted in index order, with the runs under way finished; or as they were completed.
    """
    rng, limit, grid = np.random.default_rng(3), 11.0, Grid(np.array([0.5]), np.ones(1))
    rates = []
    for _ in range(DRAWS):
        table, seconds = long_and_short(rng, 400)
        ended = end_times(seconds, workers=64)
        order = np.argsort(ended, kind="stable")
        done = order[ended[order] <= limit] if by_completion else np.flatnonzero(ended - seconds <= limit)
        # Runs that were completed early come first, and that is their number from then on.
        counted = replace(table.select(done), problem=np.arange(len(done)))
        counts = planned(first_analysis(LONG_RISK, CONFIDENCE), len(done))
        value = choose_threshold(until(counted, counts), grid, "harm", LONG_RISK, CONFIDENCE).value
        rates.append(LONG_TRUE if value < 1 else 0.0)
    verdict = verdict_on(rates, LONG_RISK, CONFIDENCE)
    print(f"by completion {by_completion}: {verdict.violations:.3f} (bound {verdict.bound:.3f})")
    assert verdict.holds != by_completion


LONG_TRUE, LONG_RISK = 0.5 * 0.08 + 0.5 * 0.32, 0.19


def long_and_short(rng: np.random.Generator, n: int) -> tuple[Table, np.ndarray]:
    """Runs of one cue that scores 0.9, half of them long, and their seconds; P(harm) is LONG_TRUE."""
    long = rng.random(n) < 0.5
    failing = rng.random(n) < np.where(long, 0.32, 0.08)
    return flat(np.full((n, 1), 0.9), ~failing[:, None]), np.where(long, 12.0, 1.0)


def end_times(seconds: np.ndarray, workers: int) -> np.ndarray:
    """When each run ends if free workers take runs in index order."""
    free, ends = [0.0] * workers, []
    for length in seconds:
        worker = int(np.argmin(free))
        free[worker] += float(length)
        ends.append(free[worker])
    return np.array(ends)


@pytest.mark.parametrize("moving", [False, True])
def test_roles_that_move_with_n_are_caught(moving: bool) -> None:
    """The probe is frozen after the fitting runs of the first n. A split of a larger n makes some of them calibrate."""
    features, sizes = 60, (120, 150, 180, 210, 240)
    rng, rates = np.random.default_rng(7), []

    def runs(count: int) -> tuple[np.ndarray, np.ndarray]:
        x = rng.normal(size=(count, features))
        return x, x[:, 0] + 2 * rng.normal(size=count) > -1

    def table(x: np.ndarray, right: np.ndarray) -> Table:
        return flat((x @ weights)[:, None], right[:, None])

    x, right = runs(4000)
    truth = x, right
    for draw in range(DRAWS):
        x, right = runs(sizes[-1])
        fitting = split(sizes[0], draw)[0] if moving else list(range(sizes[0] // 2))
        weights = np.linalg.lstsq(x[fitting], right[fitting] - 0.5, rcond=None)[0]
        scored = table(*truth)
        values = np.linspace(3, -3, 200)
        grid = Grid(values[[int(np.argmax(true_rates(scored, "wrong", values) > 0.1))]], np.ones(1))
        chosen: list[float] = []
        counts: list[int] = []
        for n in sizes:
            part = split(n, draw)[1] if moving else list(range(sizes[0] // 2, n))
            counts.append(len(part))
            found = replace(table(x[part], right[part]), stopping=Stopping("sequential", tuple(counts)))
            chosen.append(choose_threshold(found, grid, "wrong", 0.1, CONFIDENCE).loosest)
        rates.append(float(true_rates(scored, "wrong", chosen).max()))
    verdict = verdict_on(rates, 0.1, CONFIDENCE)
    print(f"moving {moving}: {verdict.violations:.3f} (bound {verdict.bound:.3f})")
    assert verdict.holds != moving
