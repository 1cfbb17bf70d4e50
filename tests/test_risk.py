"""The promise of a threshold: exact numbers, a law with known truth, wrong procedures that must be caught, MAPIE.

The law is the one of methods/golden/sim_lynx.py, written anew with arrays: dependent cues inside a run, a shared
error per problem. "Kept" means that over `DRAWS` calibration draws the count of violations of a true promise would
be exceeded with probability `FALSE_ALARM` at most.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from reasonctl.calibration.baselines import compare, evaluate, fixed_at, fixed_curve, verdict
from reasonctl.calibration.fit import fit_probe
from reasonctl.controller import ControllerError
from reasonctl.probes import risk
from reasonctl.probes.risk import Grid, choose_threshold, failures, p_value, refutes, runs_needed, upper_bound
from reasonctl.probes.table import Table
from scipy.stats import binom

DRAWS, RUNS, RISK, CONFIDENCE, FALSE_ALARM = 200, 300, 0.1, 0.9, 1e-3


def simulate(n: int, seed: int, separation: float = 2.2) -> Table:
    """n runs: Poisson(20) cues, a solve time, 4 % lucky or unlucky forced answers, AR(1) and per-run probe errors."""
    rng = np.random.default_rng(seed)
    lengths = np.maximum(1, rng.poisson(20, n))
    width = lengths.max()
    here = np.arange(width)[None] < lengths[:, None]
    hard = rng.normal(size=n)
    solvable = rng.random(n) < 1 / (1 + np.exp(-(1.6 - 0.8 * hard)))
    solved = np.where(solvable, rng.beta(2 + 0.6 * np.maximum(hard, 0), 2.5), 2.0)
    time = (np.arange(width)[None] + 1) / (lengths[:, None] + 1)
    right = (time >= solved[:, None]) ^ (rng.random((n, width)) < 0.04)
    full = solvable ^ (rng.random(n) < 0.03)
    error = rng.normal(size=(n, width))
    for k in range(1, width):
        error[:, k] = 0.6 * error[:, k - 1] + 0.8 * error[:, k]
    logit = separation * (2 * right - 1) + 0.9 * rng.normal(size=n)[:, None] + 0.9 * error + 0.8 * (time - 0.5)
    same = np.where(right, full[:, None], ~full[:, None] & (rng.random((n, width)) < 0.5))
    tokens = np.broadcast_to(10 * np.arange(width), (n, width))
    offsets, scores = np.concatenate([[0], np.cumsum(lengths)]), 1 / (1 + np.exp(-logit[here]))
    return Table(
        offsets=offsets, positions=tokens[here], scores=scores,
        right=right[here], same=same[here], exit_tokens=tokens[here] + 4, cue_name=(tokens[here] // 10) % 2,
        full_right=full, full_tokens=10 * lengths + 4, problem=np.arange(n),
    )  # fmt: skip


@cache
def world(separation: float) -> tuple[Table, Grid, list[Table]]:
    """The truth (40,000 runs: standard error of a rate of 0.1 is 0.0015), a fixed grid, and calibration draws."""
    draws = simulate(DRAWS * RUNS, seed=2, separation=separation)
    tables = [draws.select(np.arange(i * RUNS, (i + 1) * RUNS)) for i in range(DRAWS)]
    return simulate(40_000, 1, separation), Grid.of(simulate(300, 3, separation), size=200), tables


def rate(table: Table, mode: risk.Mode, threshold: float) -> float:
    failed, n = failures(table, mode, threshold)
    return failed / n if n else 0.0


def one_run(scores: list[float], right: list[bool], full_right: bool = True, runs: int = 1) -> Table:
    """The same run `runs` times, as different problems."""
    k = len(scores)
    values = {
        "offsets": np.arange(runs + 1) * k, "positions": np.tile(np.arange(k), runs), "scores": np.tile(scores, runs),
        "right": np.tile(right, runs), "same": np.tile(np.array(right) == full_right, runs),
        "exit_tokens": np.tile(np.arange(k) + 2, runs), "cue_name": np.zeros(k * runs), "problem": np.arange(runs),
        "full_right": np.full(runs, full_right), "full_tokens": np.full(runs, 50),
    }  # fmt: skip
    return Table(**values)


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
    _, grid, draws = world(separation)
    stricter = 0
    for table in draws[:40]:
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


def test_an_exit_is_strictly_above_the_threshold() -> None:
    table = one_run([0.5, 0.7], [False, True])
    assert table.first_exit(0.5).tolist() == [1] and table.first_exit(0.7).tolist() == [-1]
    assert table.first_exit(math.nextafter(0.5, 0)).tolist() == [0] and table.first_exit(math.inf).tolist() == [-1]


def test_outcomes_of_one_run() -> None:
    table = one_run([0.5, 0.7], [False, True])
    out = table.outcomes(np.array([0]))
    assert out.harm[0] and out.wrong[0] and out.disagree[0] and not out.help[0] and out.tokens[0] == 2
    full = table.outcomes(np.array([-1]))
    assert not full.harm[0] and not full.wrong[0] and not full.exited[0] and full.tokens[0] == 50
    lost = one_run([0.5, 0.7], [False, True], full_right=False).outcomes(np.array([1]))
    assert lost.help[0] and not lost.harm[0] and lost.disagree[0] and lost.tokens[0] == 3
    assert Table.outcomes(one_run([], []), np.array([-1])).tokens.tolist() == [50]


def test_select_keeps_runs_whole() -> None:
    table, chosen = simulate(50, seed=8), [7, 3, 30]
    picked = table.select(chosen)
    for i, run in enumerate(chosen):
        was = slice(table.offsets[run], table.offsets[run + 1])
        now = slice(picked.offsets[i], picked.offsets[i + 1])
        assert (picked.scores[now] == table.scores[was]).all() and picked.full_tokens[i] == table.full_tokens[run]
    assert table.first_exit(0.8)[chosen].tolist() == picked.first_exit(0.8).tolist()


def test_bounds_agree_with_the_definition() -> None:
    for count, n in ((0, 10), (3, 40), (39, 40)):
        bound = upper_bound(count, n, 0.9)
        assert binom.cdf(count, n, bound) == pytest.approx(0.1, abs=1e-9)
    assert refutes(12, 100, 0.05) == (binom.sf(11, 100, 0.05) <= 0.01)
    assert not refutes(0, 100, 0.05) and not refutes(5, 100, 0.05)


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (("harm", 0.0, 0.9), "risk is 0.0"), (("harm", 1.0, 0.9), "risk is 1.0"),
        (("harm", math.nan, 0.9), "risk is nan"),
        (("harm", 0.05, 1.0), "confidence is 1.0"), (("any", 0.05, 0.9), "mode is 'any'"),
        (("selective", 0.05, None), "no marginal form"),
    ],
)  # fmt: skip
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


# The promise, against known truth: right procedures keep it, wrong ones are caught by the same test

Procedure = Callable[[Table, Grid], float]


def keeps_promise(procedure: Procedure, mode: risk.Mode, separation: float) -> tuple[bool, int]:
    """Whether the true risk exceeds RISK in no more draws than a promise with CONFIDENCE allows, and in how many."""
    truth, grid, draws = world(separation)
    cache_: dict[float, bool] = {}
    count = 0
    for table in draws:
        value = procedure(table, grid)
        if value not in cache_:
            cache_[value] = rate(truth, mode, value) > RISK
        count += cache_[value]
    return count <= binom.isf(FALSE_ALARM, DRAWS, 1 - CONFIDENCE), count


@pytest.mark.parametrize("separation", [0.9, 2.2])
@pytest.mark.parametrize("mode", ["harm", "wrong", "disagree", "selective"])
def test_a_calibrated_threshold_keeps_its_promise(mode: risk.Mode, separation: float) -> None:
    found = []

    def procedure(table: Table, grid: Grid) -> float:
        found.append(choose_threshold(table, grid, mode, RISK, CONFIDENCE).loosest)
        return found[-1]

    kept, count = keeps_promise(procedure, mode, separation)
    print(f"{mode}, separation {separation}: {count} of {DRAWS} draws above {RISK}, {np.isinf(found).sum()} never exit")
    assert kept
    if (mode, separation) != ("selective", 0.9):
        assert np.mean(np.isfinite(found)) > 0.9  # "never exit" would keep any promise


def per_event(table: Table, grid: Grid) -> float:
    return choose_threshold(table, grid, "event", RISK, None).value


def no_bound(table: Table, grid: Grid) -> float:
    """The loosest threshold whose observed rate is within the risk: picked after looking, without a bound."""
    return min((float(v) for v in grid.thresholds if rate(table, "harm", float(v)) <= RISK), default=math.inf)


def point_estimate(table: Table, grid: Grid) -> float:
    """A fixed sequence without a test: stops at the first observed rate above the risk."""
    value = math.inf
    for candidate in grid.thresholds:
        if rate(table, "harm", float(candidate)) > RISK:
            break
        value = float(candidate)
    return value


def best_of_ten(table: Table, grid: Grid) -> float:
    """Calibrate, look, calibrate on other runs, keep the threshold that saves most."""
    values = thresholds_of_all_draws()
    at = next(i for i, draw in enumerate(world(0.9)[2]) if draw is table)
    return min(values[(at + i * 37) % DRAWS] for i in range(10))


@cache
def thresholds_of_all_draws() -> list[float]:
    _, grid, draws = world(0.9)
    return [choose_threshold(draw, grid, "harm", RISK, CONFIDENCE).loosest for draw in draws]


def deployed_inclusively(table: Table, grid: Grid) -> float:
    """Calibrated with >, deployed with >= (on rounded scores, where ties are common)."""
    return math.nextafter(choose_threshold(table, grid, "harm", RISK, CONFIDENCE).loosest, -math.inf)


@pytest.mark.parametrize("procedure", [per_event, no_bound, point_estimate, best_of_ten])
def test_wrong_procedures_are_caught(procedure: Procedure) -> None:
    kept, count = keeps_promise(procedure, "harm", 0.9)
    print(f"{procedure.__name__}: {count} of {DRAWS} draws above {RISK}")
    assert not kept


def test_an_inclusive_comparison_is_caught_on_ties(monkeypatch: pytest.MonkeyPatch) -> None:
    truth, grid, draws = world(0.9)
    coarse = [t.with_scores(np.round(t.scores, 1)) for t in draws]
    tied = (truth.with_scores(np.round(truth.scores, 1)), Grid.of(coarse[0]), coarse[1:] + coarse[:1])
    monkeypatch.setattr(f"{__name__}.world", lambda separation: tied)
    kept, count = keeps_promise(lambda t, g: choose_threshold(t, g, "harm", RISK, CONFIDENCE).loosest, "harm", 0.9)
    assert kept
    kept, wrong = keeps_promise(deployed_inclusively, "harm", 0.9)
    print(f"ties: strict {count}, inclusive {wrong} of {DRAWS} draws above {RISK}")
    assert not kept


def mean_highest(value_of: Callable[[Table], float], n: int, mode: risk.Mode, inclusive: bool, digits: int) -> float:
    """z-score of P(some failing cue fires) against RISK, over 1500 small calibration draws and one fresh run each."""
    runs = simulate(1500 * (n + 1), seed=6)
    runs = runs.with_scores(np.round(runs.scores, digits))
    highest = runs.highest(risk.failing_cues(runs, mode))
    fired = []
    for i in range(1500):
        first = i * (n + 1)
        value = value_of(runs.select(np.arange(first, first + n)))
        fired.append(highest[first + n] >= value if inclusive else highest[first + n] > value)
    return (float(np.mean(fired)) - RISK) / math.sqrt(RISK * (1 - RISK) / 1500)


ANY_GRID = Grid(np.array([0.5]), np.array([1.0]))  # the marginal form reads none


def marginal(mode: risk.Mode) -> Callable[[Table], float]:
    return lambda table: choose_threshold(table, ANY_GRID, mode, RISK, None).value


@pytest.mark.parametrize("mode", ["harm", "wrong", "disagree"])
def test_the_marginal_form_holds_and_is_not_idle(mode: risk.Mode) -> None:
    z = mean_highest(marginal(mode), 29, mode, inclusive=False, digits=12)
    print(f"marginal {mode}: z = {z:.2f} against {RISK}")
    assert abs(z) < 3.3  # exact level: (n + 1) * risk is whole. Two-sided false alarm 1e-3.


def test_wrong_marginal_forms_are_caught() -> None:
    def clamped(table: Table) -> float:
        return float(np.max(table.highest(risk.failing_cues(table, "wrong"))))  # 5 runs: the index is 6, +inf

    assert mean_highest(marginal("wrong"), 5, "wrong", inclusive=False, digits=12) < 0
    assert mean_highest(clamped, 5, "wrong", inclusive=False, digits=12) > 3.3
    assert mean_highest(marginal("wrong"), 29, "wrong", inclusive=False, digits=1) < 3.3
    assert mean_highest(marginal("wrong"), 29, "wrong", inclusive=True, digits=1) > 3.3


def test_a_probe_fitted_on_permuted_labels_still_keeps_the_promise() -> None:
    truth, _, draws = world(2.2)
    rng = np.random.default_rng(4)

    def features(table: Table) -> np.ndarray:
        logit = np.log(table.scores / (1 - table.scores))
        return np.column_stack([logit, np.cos(3 * logit), table.cue_index])

    fitting = simulate(60, seed=5)
    labels = rng.permutation(fitting.right)
    fitted = fit_probe(features(fitting), labels, fitting.problem[fitting.run_of], seed=0)
    assert abs(fitted.report["auc"] - 0.5) < 0.08
    grid = Grid.of(fitting.with_scores(fitted.held_out), 100)
    scored = truth.select(range(20_000))
    scored = scored.with_scores(fitted.probe.scores(features(scored)))
    count = 0
    for table in draws:
        value = choose_threshold(table.with_scores(fitted.probe.scores(features(table))), grid, "harm", RISK, 0.9).value
        count += rate(scored, "harm", value) > RISK
    print(f"permuted labels: {count} of {DRAWS} draws above {RISK}")
    assert count <= binom.isf(FALSE_ALARM, DRAWS, 0.1)


# MAPIE as the oracle


def test_mapie_agrees_on_the_fixed_sequence() -> None:
    from mapie.risk_control import FWERFixedSequenceTesting, control_fwer
    from mapie.risk_control.methods import compute_hoeffding_bentkus_p_value

    _, grid, draws = world(2.2)
    for table in draws[:20]:
        counts = [failures(table, "harm", float(v)) for v in grid.thresholds]
        ours = np.array([p_value(k, n, RISK) for k, n in counts])
        valid = control_fwer(ours, 1 - CONFIDENCE, FWERFixedSequenceTesting())
        value = grid.thresholds[valid].min() if len(valid) else math.inf
        assert choose_threshold(table, grid, "harm", RISK, CONFIDENCE).loosest == value
        theirs = compute_hoeffding_bentkus_p_value(
            np.array([k / n for k, n in counts]), np.full(len(counts), RUNS), np.array([RISK]), True
        )
        assert (ours <= np.ravel(theirs) + 1e-12).all()  # exact, so never above a Hoeffding-Bentkus p-value


@pytest.mark.filterwarnings("ignore:WARNING. your conformalization:UserWarning")
def test_mapie_agrees_on_event_mode() -> None:
    from mapie.classification import SplitConformalClassifier
    from sklearn.base import BaseEstimator, ClassifierMixin

    class Scores(ClassifierMixin, BaseEstimator):
        classes_ = np.array([0, 1])

        def fit(self, x, y=None):
            return self

        def __sklearn_is_fitted__(self) -> bool:
            return True

        def predict_proba(self, x):
            return np.column_stack([1 - x[:, 0], x[:, 0]])

        def predict(self, x):
            return (x[:, 0] >= 0.5).astype(int)

    for separation, limit in ((0.9, 0.1), (2.2, 0.1), (2.2, 0.3)):
        table, new = simulate(300, 11, separation), simulate(300, 12, separation).scores
        inside = []
        for label in (0, 1):
            mapie = SplitConformalClassifier(Scores(), confidence_level=1 - limit, conformity_score="lac", prefit=True)
            chosen = table.right == label
            mapie.conformalize(table.scores[chosen, None], table.right[chosen].astype(int))
            inside.append(mapie.predict_set(new[:, None])[1][:, label, 0])
        value = choose_threshold(table, Grid.of(table), "event", limit, None).value
        assert ((new > value) == (inside[1] & ~inside[0])).all()


def test_event_mode_has_no_threshold_without_a_quantile() -> None:
    table = one_run([0.3, 0.9], [False, True], runs=8)
    chosen = choose_threshold(table, Grid.of(table), "event", 0.1, None)  # 8 wrong cues, 9 needed
    assert chosen.value == math.inf and chosen.more_runs == 1
    assert choose_threshold(one_run([0.3, 0.9], [False, True], runs=9), Grid.of(table), "event", 0.1, None).value < 0.9


# Cheap rules


def test_cheap_rules_on_a_law_where_the_probe_knows_more() -> None:
    tables = [simulate(n, seed) for n, seed in ((400, 21), (400, 22), (2000, 23))]
    results = compare(*tables, mode="harm", risk=RISK, confidence=CONFIDENCE)
    by = {result.name: result for result in results}
    assert list(by) == ["probe", "cue index", "index + word", "oracle"]
    assert by["oracle"].harm == 0.0 and by["probe"].saved > by["cue index"].saved > 0
    assert "more than every cheap rule" in verdict(results)
    assert by["probe"].harm < 1.3 * RISK and by["probe"].accuracy == pytest.approx(
        tables[2].full_right.mean() - by["probe"].harm + by["probe"].help
    )
    noise = [t.with_scores(np.random.default_rng(9).random(t.cues)) for t in tables]
    assert "does not clearly beat" in verdict(compare(*noise, mode="harm", risk=RISK, confidence=CONFIDENCE))


def test_without_a_fitting_split_the_probe_keeps_its_own_grid() -> None:
    _, calibration, evaluation = (simulate(n, seed) for n, seed in ((5, 21), (400, 22), (500, 23)))
    grid = Grid.of(simulate(300, 25))
    results = compare(None, calibration, evaluation, mode="harm", risk=RISK, confidence=CONFIDENCE, grid=grid)
    assert [result.name for result in results] == ["probe", "cue index", "oracle"]
    assert results[0].threshold == choose_threshold(calibration, grid, "harm", RISK, CONFIDENCE)
    with pytest.raises(ControllerError, match="grid or the fitting split"):
        compare(None, calibration, evaluation, mode="harm", risk=RISK, confidence=CONFIDENCE)


def test_the_cue_index_may_settle_for_the_first_cue() -> None:
    right = one_run([0.5, 0.5], [True, True], runs=60)
    (index,) = (
        r for r in compare(right, right, right, mode="harm", risk=RISK, confidence=0.9) if r.name == "cue index"
    )
    assert index.exit_rate == 1.0 and index.saved == 48


def test_text_features_are_used() -> None:
    tables = [simulate(n, seed) for n, seed in ((300, 21), (300, 22), (500, 23))]
    extra = [table.right[:, None] + np.random.default_rng(1).normal(0, 0.3, (table.cues, 1)) for table in tables]
    results = compare(*tables, mode="harm", risk=RISK, confidence=CONFIDENCE, extra=extra)
    by = {result.name: result for result in results}
    assert by["index + word + text"].saved > by["index + word"].saved
    with pytest.raises(ControllerError, match="one finite row per cue"):
        compare(*tables, mode="harm", risk=RISK, confidence=CONFIDENCE, extra=[e[1:] for e in extra])


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
