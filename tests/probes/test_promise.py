"""A promise is checked when it is made, and is what every procedure is asked for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reasonctl.controller import ControllerError
from reasonctl.probes.promise import Promise
from reasonctl.probes.risk.threshold import Grid, choose_threshold
from support.simulated_runs import simulate


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"mode": "x"}, "mode is 'x'"),
        ({"risk": 0.0}, "risk is 0.0"),
        ({"risk": 1.0}, "risk is 1.0"),
        ({"risk": "0.05"}, "risk is '0.05'"),
        ({"confidence": "0.9"}, "confidence is '0.9'"),
        ({"confidence": 1.0}, "confidence is 1.0"),
        ({"mode": "selective", "confidence": None}, "'selective' has no marginal form"),
        ({"give_up": 0.0}, "risk is 0.0"),
        ({"give_up": 2.0}, "risk is 2.0"),
    ],
)
def test_an_impossible_promise_is_never_made(changes, says):
    with pytest.raises(ControllerError, match=says):
        Promise(**changes)
    with pytest.raises(ControllerError, match=says):
        replace(Promise(), **changes)


def test_the_bound_counts_both_ways_out():
    assert Promise(risk=0.05).bound == 0.05
    assert Promise(risk=0.05, give_up=0.02).bound == pytest.approx(0.07)


@pytest.mark.parametrize("confidence", [0.9, None])
def test_a_promise_asks_for_its_own_threshold(confidence):
    table, grid = simulate(200, 1), Grid.of(simulate(200, 2))
    chosen = Promise("wrong", 0.1, confidence).threshold(table, grid)
    assert chosen == choose_threshold(table, grid, "wrong", 0.1, confidence)
