"""Temperatures: the specification's golden values, and llama.cpp's dynamic temperature on random rows."""

from __future__ import annotations

import math

import numpy as np
import pytest

from reasonctl.controller import (
    EAD,
    EDT,
    Candidates,
    Chain,
    ControllerError,
    Dynatemp,
    Keys,
    KLGuided,
    MinP,
    Row,
    Temperature,
    TopNSigma,
)
from reasonctl.controller.sampling.stages.kl_guided import divergence
from support.engines import Plain
from support.golden_vectors import FORMS, TO_4_DECIMALS, WITH, WITHOUT, L, probs_of


@pytest.fixture(params=FORMS.values(), ids=FORMS)
def form(request):
    return request.param


@pytest.mark.parametrize(
    ("stage", "logits", "temperature", "top"),
    [
        (EDT(1.0, 0.1), L, 0.9842, 0.4845),
        (EDT(1.0, 1.0), L, 0.8525, 0.5323),
        (EDT(0.7, 0.5), L, 0.6463, 0.6329),
        (EDT(1.0, 1.0), np.zeros(4), 0.8513, 0.25),
        (EDT(1.0, 0.1), np.array([10.0, 0, 0, 0]), 0.0, 1.0),
        (EDT(1.0, 1.0), np.array([10.0, 0, 0, 0]), 0.0, 1.0),
        (EDT(0.7, 0.0), L, 0.7, None),
        (Dynatemp(0.8, 0.5, 1.0), L, 0.9074, 0.5111),
        (Dynatemp(0.8, 0.5, 2.0), L, 0.6690, 0.6199),
        (Dynatemp(0.8, 0.8, 0.5), L, 1.2470, 0.4134),
        (Dynatemp(0.8), L, 0.8, None),
    ],
    ids=lambda value: str(value) if hasattr(value, "name") else "",
)
def test_golden_temperatures(stage, logits, temperature, top, form):
    scores = Candidates(form(logits))
    assert stage.temperature(scores, None) == pytest.approx(temperature, abs=TO_4_DECIMALS)
    if top is not None:
        assert probs_of(Chain(stage), form(logits))[0] == pytest.approx(top, abs=TO_4_DECIMALS)


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        (Dynatemp(0.8, 0.5), [0.5111, 0.2117, 0.1698, 0.0630]),
        (Dynatemp(0.8, 0.5, 2.0), [0.6199, 0.1875, 0.1390, 0.0362]),
        (Dynatemp(0.8, 0.8, 0.5), [0.4134, 0.2176, 0.1854, 0.0901]),
    ],
    ids=str,
)
def test_golden_laws_of_dynatemp(stage, expected, form):
    scores = Candidates(form(L))
    assert scores.entropy / math.log(len(scores.possible)) == pytest.approx(0.6074, abs=TO_4_DECIMALS)
    assert probs_of(Chain(stage), form(L))[:4] == pytest.approx(expected, abs=TO_4_DECIMALS)


def test_entropy_is_read_before_truncation_and_ignores_what_is_impossible():
    """After min-p four candidates are left; EDT still takes the entropy of the whole row, dynatemp theirs."""
    scores = Candidates(L)
    _, cut = MinP(0.1).step(None, scores, None)
    assert EDT(1.0, 1.0).temperature(cut, None) == EDT(1.0, 1.0).temperature(scores, None)
    assert Dynatemp(0.8, 0.5).temperature(cut, None) == Dynatemp(0.8, 0.5).temperature(Candidates(L[:4]), None)
    masked = np.concatenate([L, np.full(90, -np.inf)])
    for stage in (EDT(1.0, 1.0), Dynatemp(0.8, 0.5)):
        assert stage.temperature(Candidates(masked), None) == pytest.approx(stage.temperature(scores, None), rel=1e-12)
    assert probs_of(Chain(TopNSigma(1), Temperature(3)), L) == pytest.approx(
        probs_of(Chain(Temperature(3), TopNSigma(1)), L)
    )


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (
            EAD(d=500),
            {
                0: 1,
                9: 1,
                10: 1.1798,
                50: 1.0948,
                100: 0.9786,
                200: 0.7082,
                300: 0.3779,
                370: 0.1041,
                371: 0.1,
                1000: 0.1,
                10**9: 0.1,
            },
        ),
        (EAD(d=1500), {10: 1.1933, 100: 1.1311, 500: 0.8044, 1000: 0.2523}),
        (EAD(d=75), {10: 1.0574, 50: 0.2523, 55: 0.1180, 56: 0.1}),
    ],
)
def test_golden_schedule(schedule, expected):
    assert {t: round(schedule.at(t), 4) for t in expected} == expected


def test_golden_ends_of_schedules_and_the_released_code_s():
    assert EAD(d=500).floor_at == pytest.approx(370.9687, abs=TO_4_DECIMALS)
    assert EAD.from_repo(200).floor_at == pytest.approx(2967.75, abs=5.1e-3)
    assert EAD.from_repo(25) == EAD(d=500) and EAD.from_repo(25, step=10) == EAD(d=1500)
    assert EAD.from_repo(25, step=10**6).d == 800_000
    for schedule in (EAD(d=500), EAD(median=81), EAD(d=30, t_max=2.0, t_min=0.5)):
        assert schedule.at(int(schedule.floor_at) + 1) == schedule.t_min < schedule.at(int(schedule.floor_at))
    with pytest.raises(ControllerError, match="ead's step is -1"):
        EAD.from_repo(25, step=-1)


def test_a_schedule_sized_by_the_median_answer_reaches_its_floor_at_half_of_it():
    schedule = EAD(median=300)
    assert schedule.at(150) == schedule.t_min < schedule.at(148)
    assert EAD(median=30, t_max=0.7, t_min=0.7, warmup=2).at(1) == 1.0
    assert [EAD(median=30, t_max=0.7, t_min=0.7, warmup=2).at(i) for i in (2, 15, 99)] == [0.7] * 3
    for wrong in ({}, {"d": 5, "median": 5}):
        with pytest.raises(ControllerError, match="one of the two"):
            EAD(**wrong)


@pytest.mark.parametrize(("t0", "sigma", "temperature"), [(1.0, 1.0, 0.5280), (1.0, 0.5, 0.2788), (0.7, 2.0, 0.5087)])
def test_golden_kl_guided(t0, sigma, temperature, form):
    scores = Candidates(form(WITH))
    assert divergence(scores, form(WITHOUT)) == pytest.approx(0.9213, abs=TO_4_DECIMALS)
    reverse = divergence(Candidates(WITHOUT), WITH)
    assert abs(reverse - 0.9213) > 0.01  # the direction matters
    stage = KLGuided("source", t0=t0, sigma=sigma)
    assert stage.temperature(scores, form(WITHOUT)) == pytest.approx(temperature, abs=TO_4_DECIMALS)
    assert stage.temperature(scores, form(WITH)) == t0


@pytest.mark.parametrize(
    ("t0", "sigma", "expected"),
    [
        (1.0, 1.0, [0.9948, 0.0034, 0.0013, 0.0005]),
        (1.0, 0.5, [1.0, 0.0, 0.0, 0.0]),
        (0.7, 2.0, [0.9959, 0.0027, 0.0010, 0.0004]),
    ],
)
def test_golden_kl_guided_laws(t0, sigma, expected, form):
    row = Row(Plain(form(WITH)), -1, [0], "think", Keys(seed=0))
    stage = KLGuided("source", t0=t0, sigma=sigma)
    _, tempered = stage.step((None, form(WITHOUT)), Candidates(form(WITH)), row)
    assert (tempered.weights / tempered.mass)[:4] == pytest.approx(expected, abs=TO_4_DECIMALS)
    for logits, p in ((WITH, [0.9105, 0.0453, 0.0275, 0.0167]), (WITHOUT, [0.2699, 0.4450, 0.1637, 0.1213])):
        scores = Candidates(form(logits))
        assert (scores.weights / scores.mass)[:4] == pytest.approx(p, abs=TO_4_DECIMALS)


def test_a_divergence_is_bounded_and_masks_count_for_both():
    assert divergence(Candidates(np.array([100.0, 0.0])), np.array([0.0, 100.0])) < math.log(1e7) + 1e-6
    masked = divergence(Candidates(np.array([4.0, 1.0, -np.inf])), np.array([1.0, 1.5, 9.0]))
    assert masked == pytest.approx(divergence(Candidates(np.array([4.0, 1.0])), np.array([1.0, 1.5])), abs=1e-5)
