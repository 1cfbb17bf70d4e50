"""Fitting: parity with scikit-learn, problems never split over folds, and what can't be fitted."""

from __future__ import annotations

import time

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from reasonctl.calibration.fitting.probe import fit_probe, probe_of
from reasonctl.controller import ControllerError
from reasonctl.probes.signals.probe import Probe, features_at


def data(n_problems: int = 60, per: int = 8, d: int = 6, seed: int = 0, curved: bool = False):
    rng = np.random.default_rng(seed)
    problems = np.repeat(np.arange(n_problems), per)
    x = rng.normal(size=(len(problems), d)) + rng.normal(size=(n_problems, d))[problems]
    signal = x[:, 0] * x[:, 1] * 3 if curved else 2 * x[:, 0]
    return x, rng.random(len(x)) < 1 / (1 + np.exp(-signal)), problems


@pytest.mark.parametrize(
    "model",
    [LogisticRegression(C=0.1), MLPClassifier((8,), max_iter=30, random_state=0), MLPClassifier((8, 4), max_iter=30)],
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_parity_with_scikit_learn(model) -> None:
    x, y, _ = data()
    x = x * np.array([1e3, 1, 1e-3, 1, 1, 1]) + np.array(
        [5e4, 0, 0, 0, 1, -2]
    )  # one massive dimension, as in real states
    pipeline = make_pipeline(StandardScaler(), model).fit(x, y)
    expected = pipeline.predict_proba(x)[:, 1]
    probe = probe_of(pipeline)
    assert np.abs(probe.scores(x) - expected).max() < 1e-6
    assert max(abs(probe.score(row) - e) for row, e in zip(x, expected, strict=True)) < 1e-6


def test_a_fit_finds_the_signal_and_reports_it() -> None:
    x, y, problems = data()
    fitted = fit_probe(x, y, problems, seed=0)
    assert fitted.report["auc"] > 0.8 and fitted.report["model"].startswith("logistic")
    assert fitted.held_out.shape == y.shape and np.isfinite(fitted.held_out).all()
    assert (fitted.report["cues"], fitted.report["problems"], fitted.report["positive"]) == (480, 60, int(y.sum()))
    assert np.mean((fitted.probe.scores(x) > 0.5) == y) > 0.75
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=float(fitted.report["model"].split("=")[1])))
    weight = np.where(y, 0.5 / y.mean(), 0.5 / (1 - y.mean()))
    pipeline.fit(x, y, logisticregression__sample_weight=weight)
    assert np.abs(fitted.probe.scores(x) - pipeline.predict_proba(x)[:, 1]).max() < 1e-3


def test_the_mlp_wins_only_where_it_is_needed() -> None:
    fitted = fit_probe(*data(n_problems=150, curved=True), seed=0)
    assert fitted.report["model"].startswith("mlp") and fitted.report["auc"] > fitted.report["auc_logistic"] + 0.1
    assert len(fitted.probe.weights) == 2


def test_fits_are_reproducible() -> None:
    one, two = (fit_probe(*data(), seed=3) for _ in range(2))
    assert one.report == two.report and (one.held_out == two.held_out).all()
    for a, b in zip(one.probe.weights + one.probe.biases, two.probe.weights + two.probe.biases, strict=True):
        assert a.tobytes() == b.tobytes()


def test_held_out_scores_know_nothing_of_the_problem() -> None:
    # The features are the problem's identity, the label is drawn per problem: only a leak can predict it.
    rng = np.random.default_rng(5)
    problems = np.repeat(np.arange(120), 4)
    x = rng.normal(size=(120, 100))[problems] + 0.01 * rng.normal(size=(480, 100))
    y = (rng.random(120) < 0.5)[problems]
    # 120 problems: an AUC of pure chance has a standard deviation of 0.05; the best of six candidates is reported.
    assert fit_probe(x, y, problems, seed=0).report["auc"] < 0.7
    leaky = fit_probe(x, y, np.arange(480), seed=0)  # every cue its own problem: LYNX's split
    assert leaky.report["auc"] > 0.95


def test_classes_are_balanced() -> None:
    rng = np.random.default_rng(2)
    y = np.arange(600) % 12 == 0
    scores = fit_probe(rng.normal(size=(600, 3)) + y[:, None], y, np.arange(600) // 4, seed=0).probe.scores
    assert scores(np.full((1, 3), 0.5))[0] == pytest.approx(0.5, abs=0.1)  # midway between the classes


@pytest.mark.parametrize(("value", "says"), [(True, "answer is wrong"), (False, "answer is right")])
def test_a_single_class_is_named(value: bool, says: str) -> None:
    x, _, problems = data()
    with pytest.raises(ControllerError, match=says):
        fit_probe(x, np.full(len(x), value), problems, seed=0)
    with pytest.raises(ControllerError, match="only 1 of 60 problems"):
        fit_probe(x, np.where(problems == 0, not value, value), problems, seed=0)


def test_broken_data_is_named() -> None:
    x, y, problems = data()
    with pytest.raises(ControllerError, match="fit together"):
        fit_probe(x, y[1:], problems, seed=0)
    x[3, 2] = np.nan
    with pytest.raises(ControllerError, match="NaN"):
        fit_probe(x, y, problems, seed=0)


def test_a_score_takes_microseconds() -> None:
    rng = np.random.default_rng(0)
    width = 896
    probe = Probe((rng.normal(size=(2 * width, 1)) / width,), (np.zeros(1),))
    states = {12: rng.normal(size=width).astype(np.float32), 18: rng.normal(size=width).astype(np.float32)}
    best = min(once(lambda: probe.score(features_at(states, (12, 18)))) for _ in range(200))
    print(f"one score of {2 * width} features: {best * 1e6:.1f} microseconds")
    assert best < 200e-6


def once(call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
