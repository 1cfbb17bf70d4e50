"""MAPIE's second opinion on a calibration: silent where both agree, loud where ours is planted wrong."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reasonctl.calibration.fitting import cross_check
from reasonctl.calibration.fitting.cross_check import check_with_mapie
from reasonctl.controller import ControllerError
from reasonctl.probes.promise import Promise
from reasonctl.probes.risk.stopping import Stopping, planned
from reasonctl.probes.risk.threshold import Grid
from support.simulated_runs import simulate

TABLE = simulate(300, seed=4)
GRID = Grid.of(simulate(300, seed=5), 100)


@pytest.mark.parametrize("mode", ["harm", "wrong", "selective", "disagree", "event"])
@pytest.mark.parametrize("risk", [0.02, 0.05, 0.1, 0.3])
@pytest.mark.parametrize("confidence", [0.9, 0.99, None])
def test_both_agree(mode, risk, confidence):
    if confidence is None and mode in ("selective", "wrong"):
        confidence = 0.5  # these modes have no marginal form, or none that differs
    check_with_mapie(TABLE, GRID, Promise(mode=mode, risk=risk, confidence=confidence, signal="hidden"))


@pytest.mark.parametrize("mode", ["harm", "wrong", "selective", "disagree"])
@pytest.mark.parametrize("risk", [0.02, 0.05, 0.1, 0.3])
@pytest.mark.parametrize("stopping", [Stopping("sequential", planned(29, 290)), Stopping("fixed", (100, 300))])
def test_both_agree_at_an_analysis(mode, risk, stopping):
    if mode == "selective" and stopping.design == "fixed":
        stopping = Stopping("fixed", (300,))
    table = replace(TABLE, stopping=stopping)
    check_with_mapie(table, GRID, Promise(mode=mode, risk=risk, confidence=0.9, signal="hidden"))


@pytest.mark.parametrize("change", [-1, 1])
def test_one_threshold_more_or_less_is_noticed(monkeypatch, change):
    honest = cross_check.accepted
    monkeypatch.setattr(cross_check, "accepted", lambda *given: honest(*given) + change)
    with pytest.raises(ControllerError, match="no probe was written") as caught:
        check_with_mapie(TABLE, GRID, Promise(mode="harm", risk=0.1, confidence=0.9, signal="hidden"))
    assert "\n" not in str(caught.value)
