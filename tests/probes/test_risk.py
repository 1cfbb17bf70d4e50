"""Thresholds: exact numbers, requests that are refused, and MAPIE as the oracle. Promises: test_redraws.py."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from scipy.stats import binom

from reasonctl.controller import ControllerError
from reasonctl.probes.risk import threshold as risk
from reasonctl.probes.risk.bounds import accepted, conformal_quantile, p_value, refutes, upper_bound
from reasonctl.probes.risk.table import Table
from reasonctl.probes.risk.threshold import Grid, choose_threshold, failures, runs_needed
from support.simulated_runs import one_run, simulate

RISK, CONFIDENCE = 0.1, 0.9


def calibrations(count: int, separation: float) -> list[Table]:
    """Calibration tables of 300 runs each."""
    runs = simulate(300 * count, seed=2, separation=separation)
    return [runs.select(np.arange(i * 300, (i + 1) * 300)) for i in range(count)]


# Exact numbers


@pytest.mark.parametrize(("limit", "n"), [(0.10, 22), (0.05, 45), (0.02, 114), (0.01, 230)])
def test_fewest_runs_with_a_confidence(limit: float, n: int) -> None:
    assert runs_needed("harm", limit, 0.9) == n
    assert p_value(0, n, limit) <= 0.1 < p_value(0, n - 1, limit)
    assert upper_bound(0, n, 0.9) <= limit < upper_bound(0, n - 1, 0.9)


@pytest.mark.parametrize(("limit", "n"), [(0.10, 9), (0.05, 19), (0.01, 99), (0.3, 3)])
def test_fewest_runs_marginal(limit: float, n: int) -> None:
    assert runs_needed("wrong", limit, None) == n
    harmless = one_run([0.5], [True])
    assert choose_threshold(one_run([0.5], [True], runs=n), Grid.of(harmless, 2), "wrong", limit, None).value < math.inf
    few = choose_threshold(one_run([0.5], [True], runs=n - 1), Grid.of(harmless, 2), "wrong", limit, None)
    assert few.value == math.inf and few.more_runs == 1 and "1 more runs" in few.why


@pytest.mark.parametrize("mode", ["harm", "wrong", "disagree", "selective"])
def test_too_few_runs_never_exit_and_say_how_many_are_missing(mode: risk.Mode) -> None:
    table = one_run([0.2, 0.6], [True, True], runs=45)
    grid = Grid(np.array([0.5, 0.1]), np.array([1.0, 1.0]))
    assert choose_threshold(table, grid, mode, 0.05, 0.9).loosest == 0.1
    few = choose_threshold(table.select(np.arange(40)), grid, mode, 0.05, 0.9)
    assert few.value == math.inf and few.more_runs is not None
    assert few.more_runs == 5 and "5 more runs" in few.why
    assert choose_threshold(table.select(range(44)), grid, mode, 0.05, 0.9).value == math.inf


def test_many_runs_with_too_many_failures_ask_for_a_better_probe() -> None:
    table = one_run([0.9], [False], runs=100)
    chosen = choose_threshold(table, Grid(np.array([0.5]), np.array([1.0])), "harm", 0.05, 0.9)
    assert chosen.value == math.inf and chosen.more_runs is None and "better probe" in chosen.why


def test_marginal_threshold_is_the_stated_order_statistic() -> None:
    table = one_run([0.5], [False], runs=19).with_scores(np.arange(19) / 20)
    chosen = choose_threshold(table, Grid.of(table), "harm", 0.1, None)  # ceil(20 * 0.9) = 18th smallest
    assert chosen.value == 17 / 20
    assert choose_threshold(table, Grid.of(table), "harm", 0.05, None).value == 18 / 20
    harmless = one_run([0.5], [False], full_right=False, runs=19)
    assert choose_threshold(harmless, Grid.of(table), "harm", 0.05, None).value == -math.inf


@pytest.mark.parametrize("separation", [0.9, 2.2])
def test_the_threshold_in_use_is_certified_and_gives_up_little(separation: float) -> None:
    """Stricter than the loosest certified one, with nearly its savings; it passed its own test."""
    grid, stricter = Grid.of(simulate(300, 3, separation), size=200), 0
    for table in calibrations(40, separation):
        chosen = choose_threshold(table, grid, "harm", RISK, CONFIDENCE)
        assert chosen.value >= chosen.loosest
        saved, most = (
            (table.full_tokens - table.outcomes(table.first_exit(v)).tokens).sum()
            for v in (chosen.value, chosen.loosest)
        )
        assert saved >= 0.97 * most
        assert (chosen.failures, chosen.runs) == failures(table, "harm", chosen.value)
        assert p_value(chosen.failures, chosen.runs, RISK) <= 1 - CONFIDENCE
        stricter += chosen.value > chosen.loosest
    assert stricter > 10


def test_fixed_sequence_stops_at_its_first_failure() -> None:
    # 100 runs: above 0.5 twelve fail; from 0.4 on they exit rightly at an earlier cue. A later pass must not count.
    bad, good = one_run([0.45, 0.55], [True, False], runs=12), one_run([0.1, 0.2], [True, True], runs=88)
    table = Table(
        **{
            name: np.concatenate([getattr(bad, name), getattr(good, name)])
            for name in ("positions", "scores", "right", "same", "exit_tokens", "cue_name", "full_right", "full_tokens")
        },
        offsets=np.arange(101) * 2,
        problem=np.arange(100),
    )
    grid = Grid(np.array([0.7, 0.5, 0.4]), np.array([0.0, 0.1, 0.1]))
    assert failures(table, "harm", 0.5) == (12, 100) and failures(table, "harm", 0.4) == (0, 100)
    assert choose_threshold(table, grid, "harm", 0.05, 0.9).loosest == 0.7


def test_bounds_agree_with_the_definition() -> None:
    for count, n in ((0, 10), (3, 40), (39, 40)):
        bound = upper_bound(count, n, 0.9)
        assert binom.cdf(count, n, bound) == pytest.approx(0.1, abs=1e-9)
    assert refutes(12, 100, 0.05) == (binom.sf(11, 100, 0.05) <= 0.01)
    assert not refutes(0, 100, 0.05) and not refutes(5, 100, 0.05)


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (("harm", 0.0, 0.9), "risk is 0.0"),
        (("harm", 1.0, 0.9), "risk is 1.0"),
        (("harm", math.nan, 0.9), "risk is nan"),
        (("harm", 0.05, 1.0), "confidence is 1.0"),
        (("any", 0.05, 0.9), "mode is 'any'"),
        (("selective", 0.05, None), "no marginal form"),
    ],
)
def test_bad_requests(request_: tuple, says: str) -> None:
    with pytest.raises(ControllerError, match=says):
        choose_threshold(simulate(5, 0), Grid.of(simulate(5, 0)), *request_)


def test_runs_that_are_no_evidence_are_refused() -> None:
    table = simulate(30, 0)
    twice = table.select(np.repeat(np.arange(30), 2))
    with pytest.raises(ControllerError, match="60 runs of 30 problems"):
        choose_threshold(twice, Grid.of(table), "harm", 0.05, 0.9)
    assert (twice.one_per_problem().scores == table.scores).all()
    ungraded = Table(**{**table.arrays(), "graded": False})
    with pytest.raises(ControllerError, match="gold answers"):
        choose_threshold(ungraded, Grid.of(table), "harm", 0.05, 0.9)
    assert choose_threshold(ungraded, Grid.of(table), "disagree", 0.3, 0.9).mode == "disagree"


def test_exits_that_cost_more_than_they_save_are_no_error() -> None:
    table = one_run([0.9], [True], runs=60)
    dear = Table(**{**table.arrays(), "exit_tokens": np.full(60, 70)})
    assert choose_threshold(dear, Grid(np.array([0.5, 0.2]), np.ones(2)), "harm", 0.05, 0.9).value == 0.5


# Family-wise error


def one_by_one(table: Table, grid: Grid, mode: risk.Mode, limit: float, confidence: float) -> list[float]:
    """The accepted thresholds, by a walk that stops at its first failure."""
    start = 0
    if mode == "selective":
        enough = [share * table.runs >= 2 * runs_needed(mode, limit, confidence) for share in grid.exits]
        start = enough.index(True) if any(enough) else len(enough) - 1
    found = []
    for value in grid.thresholds[start:]:
        failed, n = risk.count_failures(table.outcomes(table.first_exit(float(value))), mode)
        if n == 0 or binom.cdf(failed, n, limit) > 1 - confidence:
            break
        found.append(float(value))
    return found


@pytest.mark.parametrize("mode", ["harm", "wrong", "selective", "disagree"])
def test_the_accepted_thresholds_are_those_of_a_walk(mode: risk.Mode) -> None:
    rng, lengths = np.random.default_rng(0), set()
    for seed in range(25):
        separation, digits = rng.uniform(0.5, 3), rng.integers(1, 6)
        fitting, table = (simulate(int(rng.integers(20, 200)), 2 * seed + i, separation) for i in (0, 1))
        fitting, table = (t.with_scores(np.round(t.scores, digits)) for t in (fitting, table))
        limit, confidence = float(rng.uniform(0.02, 0.4)), float(rng.uniform(0.5, 0.99))
        grid = Grid.of(fitting, size=40)
        found = one_by_one(table, grid, mode, limit, confidence)
        chosen = choose_threshold(table, grid, mode, limit, confidence)
        lengths.add(len(found))
        if not found:
            assert chosen.value == chosen.loosest == math.inf and chosen.more_runs != 0
            continue
        saved = [(table.full_tokens - table.outcomes(table.first_exit(v)).tokens).sum() for v in found]
        assert chosen.loosest == found[-1]
        assert chosen.value == next(v for v, s in zip(found, saved, strict=True) if s >= risk.NEARLY * max(saved))
        assert (chosen.failures, chosen.runs) == failures(table, mode, chosen.value)
    assert 0 in lengths and len(lengths) > 5


def test_a_sequence_is_a_prefix() -> None:
    failed, n = np.array([0, 1, 12, 0]), np.full(4, 100)
    assert accepted(failed, n, 0.05, 0.9) == 2 and accepted(failed[2:], n[2:], 0.05, 0.9) == 0
    assert accepted(np.array([0]), np.array([0]), 0.05, 0.9) == 0


def test_mapie_accepts_the_same_candidates() -> None:
    from mapie.risk_control import FWERFixedSequenceTesting, control_fwer

    rng, ended = np.random.default_rng(5), set()
    for _ in range(400):
        size, n = int(rng.integers(1, 60)), rng.integers(0, 400, size=1).repeat(60)
        n = n[:size] if rng.random() < 0.5 else rng.integers(0, 400, size=size)
        rising = np.sort(rng.binomial(n, rng.uniform(0, 0.15, size=size)))
        failed, limit, confidence = np.minimum(rising, n), rng.uniform(0.01, 0.3), rng.uniform(0.5, 0.99)
        p_values = np.array([p_value(int(k), int(m), limit) for k, m in zip(failed, n, strict=True)])
        theirs = control_fwer(p_values, 1 - confidence, FWERFixedSequenceTesting())
        held = accepted(failed, n, limit, confidence)
        assert list(theirs) == list(range(held))
        ended.add("none" if held == 0 else "all" if held == size else "some")
    assert ended == {"none", "some", "all"}


def test_exact_p_values_are_below_hoeffding_bentkus() -> None:
    from mapie.risk_control.methods import compute_hoeffding_bentkus_p_value

    failed = np.arange(0, 40)
    theirs = compute_hoeffding_bentkus_p_value(failed / 300, np.full(40, 300), np.array([RISK]), True)
    assert all(p_value(int(k), 300, RISK) <= bound + 1e-12 for k, bound in zip(failed, np.ravel(theirs), strict=True))


def test_probes_wait_for_no_library_of_statistics() -> None:
    code = "import sys, reasonctl.probes; sys.exit(any(name in sys.modules for name in ('mapie', 'sklearn', 'scipy')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# MAPIE as the oracle of `event`


def mapie_sets(table: Table, new: np.ndarray, level: float) -> list[np.ndarray]:
    """[wrong, right] is in the set of each new score: one classifier per true class, each read for its own class."""
    from mapie.classification import SplitConformalClassifier
    from sklearn.base import BaseEstimator, ClassifierMixin

    class Candidates(ClassifierMixin, BaseEstimator):
        classes_ = np.array([0, 1])

        def fit(self, x, y=None):
            return self

        def __sklearn_is_fitted__(self) -> bool:
            return True

        def predict_proba(self, x):
            return np.column_stack([1 - x[:, 0], x[:, 0]])

        def predict(self, x):
            return (x[:, 0] >= 0.5).astype(int)

    inside = []
    for label in (0, 1):
        mapie = SplitConformalClassifier(Candidates(), confidence_level=1 - level, conformity_score="lac", prefit=True)
        chosen = table.right == label
        mapie.conformalize(table.scores[chosen, None], table.right[chosen].astype(int))
        inside.append(mapie.predict_set(new[:, None])[1][:, label, 0])
    return inside


@pytest.mark.filterwarnings("ignore:WARNING. your conformalization:UserWarning")
@pytest.mark.parametrize("digits", [2, 15])
def test_event_mode_exits_on_the_published_sets(digits: int) -> None:
    exits = 0
    for separation, level in ((0.9, 0.05), (0.9, 0.1), (2.2, 0.1), (2.2, 0.3)):
        table, new = simulate(300, 11, separation), simulate(300, 12, separation).scores
        table, new = table.with_scores(np.round(table.scores, digits)), np.round(new, digits)
        wrong, right = mapie_sets(table, new, level)
        value = choose_threshold(table, Grid.of(table), "event", level, None).value
        assert ((new > value) == (right & ~wrong)).all()
        exits += int((right & ~wrong).sum())
    assert exits > 1000


@pytest.mark.filterwarnings("ignore:WARNING. your conformalization:UserWarning")
def test_event_mode_has_no_threshold_without_a_quantile() -> None:
    table = one_run([0.3, 0.9], [False, True], runs=8)
    chosen = choose_threshold(table, Grid.of(table), "event", 0.1, None)  # 8 wrong cues, 9 needed
    assert chosen.value == math.inf and chosen.more_runs == 1
    assert choose_threshold(one_run([0.3, 0.9], [False, True], runs=9), Grid.of(table), "event", 0.1, None).value < 0.9
    with pytest.raises(ValueError, match="too low"):  # MAPIE doesn't clamp either
        mapie_sets(table, np.array([0.5]), 0.1)
    assert conformal_quantile(np.arange(8.0), 0.1) == math.inf and conformal_quantile(np.arange(9.0), 0.1) == 8.0
