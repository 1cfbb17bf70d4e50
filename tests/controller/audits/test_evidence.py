"""The audits' e-process: a supermartingale by enumeration, its delays, and that it is false as rarely as it says."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.stats import binomtest

from reasonctl.controller import ControllerError
from reasonctl.controller.audits import Evidence
from reasonctl.controller.audits import evidence as module

RISK = 0.05


def after(failures: list[bool], risk: float = RISK) -> Evidence:
    evidence = Evidence(risk)
    for failed in failures:
        evidence.update(failed)
    return evidence


@pytest.mark.parametrize(("risk", "rate"), [(0.05, 0.05), (0.05, 0.01), (0.3, 0.3), (0.3, 0.2)])
def test_its_mean_is_the_stake_at_the_promised_rate_and_less_below(risk, rate):
    """Over all sequences of eight runs, and given any beginning: the wealth never grows in the mean."""
    mean = 0.0
    for runs in itertools.product([False, True], repeat=8):
        chance = math.prod(rate if failed else 1 - rate for failed in runs)
        mean += chance * after(list(runs), risk).wealth
    assert math.isclose(mean, 1.0, rel_tol=1e-9) if rate == risk else mean < 1.0
    for begun in ([], [True], [False, False, True]):
        now = after(begun, risk).wealth
        later = rate * after([*begun, True], risk).wealth + (1 - rate) * after([*begun, False], risk).wealth
        assert later <= now * (1 + 1e-9)


def test_an_unfair_bet_is_seen_by_the_same_sum(monkeypatch):
    """Negative control: shares of the wealth that sum to more than 1."""
    monkeypatch.setattr(module, "SHARES", (0.5, 0.3, 0.3))
    mean = sum(
        math.prod(RISK if failed else 1 - RISK for failed in runs) * after(list(runs)).wealth
        for runs in itertools.product([False, True], repeat=6)
    )
    assert mean > 1.01


@pytest.mark.parametrize(("rate", "most"), [(0.30, 24), (0.15, 85)])
def test_a_broken_promise_is_seen_sooner_than_by_the_first_simulation(rate, most):
    """There the median alarm came after 28 audits at .30 and 93 at .15; here after 17 and 64."""
    rng, found = np.random.default_rng(4), []
    for _ in range(60):
        evidence = Evidence(RISK)
        while not evidence.alarm and evidence.audits < 400:
            evidence.update(rng.random() < rate)
        found.append(evidence.audits)
    assert np.median(found) <= most


def alarms(rate: float, streams: int, audits: int, level: float, seed: int) -> int:
    rng, found = np.random.default_rng(seed), 0
    for _ in range(streams):
        evidence = Evidence(RISK, level)
        for failed in rng.random(audits) < rate:
            evidence.update(bool(failed))
            if evidence.alarm:
                found += 1
                break
    return found


def test_false_alarms_are_as_rare_as_it_says():
    """Fixed seed; a correct one is refuted with probability 0.01. At twice the rate nearly every stream alarms."""
    assert binomtest(alarms(RISK, 80, 150, 0.1, 3), 80, 0.1, "greater").pvalue > 0.01
    assert alarms(4 * RISK, 20, 200, 0.1, 3) >= 18


@pytest.mark.slow
def test_false_alarms_in_five_hundred_long_streams():
    assert binomtest(alarms(RISK, 500, 2000, 0.01, 8), 500, 0.01, "greater").pvalue > 0.01


def test_an_alarm_stays_and_the_wealth_falls():
    evidence = after([True] * 10)
    assert evidence.alarm and evidence.highest == evidence.wealth
    for _ in range(200):
        evidence.update(False)
    assert evidence.alarm and evidence.wealth < 1 < evidence.highest and evidence.failures == 10


def test_much_evidence_overflows_nothing():
    assert after([True] * 3000).wealth == math.exp(700) and after([False] * 3000).wealth > 0


@pytest.mark.parametrize("wrong", [0.0, 1.0, -0.1, float("nan")])
def test_impossible_numbers_are_refused(wrong):
    with pytest.raises(ControllerError, match="risk is"):
        Evidence(wrong)
    with pytest.raises(ControllerError, match="level is"):
        Evidence(0.05, wrong)
