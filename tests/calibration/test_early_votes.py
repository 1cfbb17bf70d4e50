"""Votes that stop early: the calibrated share keeps its promise, and a planted wrong one is caught."""

from __future__ import annotations

import numpy as np
import pytest

from reasonctl.calibration.evaluation.early_votes import (
    LEAST,
    calibrated_stop,
    share_failures,
    share_thresholds,
    tried,
    winner,
)
from reasonctl.controller import ControllerError
from reasonctl.controller.selection import LosslessStop, ShareStop
from reasonctl.probes.risk import accepted, refutes

N = 16
RISK = 0.08


def problems(rng: np.random.Generator, count: int) -> list[list[int | None]]:
    """Votes of 16 samples: each problem has a distribution of its own over five answers, and some samples none."""
    votes = []
    for _ in range(count):
        peaked = rng.choice([0.15, 0.6, 3.0])
        probs = rng.dirichlet([peaked] * 5)
        drawn = rng.choice(5, size=N, p=probs)
        names: dict[int, int] = {}
        votes.append([None if rng.random() < 0.05 else names.setdefault(int(one), len(names)) for one in drawn])
    return votes


@pytest.fixture(scope="module")
def population() -> list[list[int | None]]:
    return problems(np.random.default_rng(1), 2000)


@pytest.fixture(scope="module")
def failures(population) -> np.ndarray:
    """Shape (problems, thresholds): the truth that promises are compared with."""
    return share_failures(population, share_thresholds(N))


def test_failures_of_all_thresholds_are_those_of_each_rule(population, failures) -> None:
    thresholds = share_thresholds(N)
    for column in range(0, len(thresholds), 7):
        outcome = tried(ShareStop(thresholds[column], LEAST), population[:200])
        assert outcome.failures == failures[:200, column].sum()


def test_the_promise_is_kept_over_500_calibrations(failures) -> None:
    """Broken by at most 10 % of calibrations: 500 of them, refuted at level .01 only if there are too many."""
    rng, broken, taken = np.random.default_rng(2), 0, []
    rates = failures.mean(axis=0)
    for _ in range(500):
        failed = failures[rng.choice(len(failures), size=200)].sum(axis=0)
        column = accepted(failed[1:], np.full(len(failed) - 1, 200), RISK, 0.9)
        broken += rates[column] > RISK
        taken.append(column)
    assert not refutes(broken, 500, 0.1)
    assert np.mean(taken) > 5, "a rule that never stops early keeps every promise"


def test_a_planted_rule_is_caught(failures) -> None:
    """The lowest threshold whose failing share on the calibration problems is below the risk breaks its promise."""
    rng, broken, rates = np.random.default_rng(3), 0, failures.mean(axis=0)
    for _ in range(100):
        failed = failures[rng.choice(len(failures), size=200)].sum(axis=0)
        broken += rates[np.flatnonzero(failed <= RISK * 200)[-1]] > RISK
    assert refutes(broken, 100, 0.1)


def test_the_library_chooses_what_the_tests_above_do(population, failures) -> None:
    failed = failures[:300].sum(axis=0)
    column = accepted(failed[1:], np.full(len(failed) - 1, 300), 0.1, 0.9)
    assert calibrated_stop(population[:300], 0.1).rule == ShareStop(share_thresholds(N)[column], LEAST)


def test_a_lossless_stop_never_fails(population) -> None:
    outcome = tried(LosslessStop(), population)
    assert outcome.failures == 0 and outcome.problems == 2000 and 0.1 < outcome.saved < 0.9


def test_too_few_problems_promise_nothing(population) -> None:
    outcome = calibrated_stop(population[:10], risk=0.05)
    assert outcome.rule == ShareStop(1.0, LEAST) and outcome.failures == 0
    assert outcome.saved == tried(LosslessStop(), population[:10]).saved > 0, "what changes no vote needs no promise"


def test_a_looser_risk_stops_no_later(population) -> None:
    drawn = [calibrated_stop(population[:400], risk).samples for risk in (0.02, 0.05, 0.1, 0.2, 0.4)]
    assert drawn == sorted(drawn, reverse=True) and drawn[-1] < drawn[0]


def test_nobody_answers() -> None:
    assert winner([None, None]) is None
    assert tried(LosslessStop(), [[None, None, None]]).failures == 0


@pytest.mark.parametrize(
    ("votes", "risk", "message"),
    [
        ([], 0.1, "votes of no samples"),
        ([[0], [0, 1]], 0.1, r"votes of \[1, 2\] samples"),
        ([[0, 0]], 0.0, "risk is 0.0"),
        ([[0, 0]], float("nan"), "risk is nan"),
    ],
)
def test_impossible_requests_are_refused(votes, risk: float, message: str) -> None:
    with pytest.raises(ControllerError, match=message):
        calibrated_stop(votes, risk)
