"""Thresholds of one domain: they hold there, where a common one does not; too few runs of it never exit."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom

from reasonctl.probes.risk.table import Table
from reasonctl.probes.risk.threshold import Grid, choose_threshold, failures, runs_needed
from support.simulated_runs import one_run, two_domains

RISK, CONFIDENCE = 0.1, 0.9


def test_a_domains_threshold_holds_there_and_the_common_one_does_not() -> None:
    """False alarm of the test of a true promise: below 1e-3."""
    truth, grid = two_domains(20_000, 50), Grid.of(two_domains(300, 60), 100)
    hard = truth.in_domain(1)

    def above(value: float) -> bool:
        failed, n = failures(hard, "harm", value)
        return failed / n > RISK

    own = common = finite = 0
    for seed in range(40):
        table = two_domains(400, 100 + 2 * seed)
        mine = choose_threshold(table.in_domain(1), grid, "harm", RISK, CONFIDENCE)
        own += above(mine.loosest)
        common += above(choose_threshold(table, grid, "harm", RISK, CONFIDENCE).loosest)
        finite += mine.value < math.inf
    print(f"hard domain above {RISK}: own threshold {own} of 40, common one {common}")
    limit = binom.isf(1e-3, 40, 1 - CONFIDENCE)
    assert own <= limit < common and finite > 30


@pytest.mark.parametrize(("confidence", "missing"), [(0.9, 5), (None, 0)])
def test_a_domain_with_too_few_runs_never_exits(confidence: float | None, missing: int) -> None:
    table = one_run([0.9], [True], runs=100)
    split = Table(**{**table.arrays(), "domain": np.repeat([0, 1], [60, 40])})
    grid = Grid(np.array([0.5]), np.array([1.0]))
    assert choose_threshold(split.in_domain(0), grid, "harm", 0.05, confidence).value < math.inf
    few = choose_threshold(split.in_domain(1), grid, "harm", 0.05, confidence)
    assert few.more_runs == missing and (few.value == math.inf) == (missing > 0)
    none = choose_threshold(split.in_domain(2), grid, "harm", 0.05, confidence)
    assert none.value == math.inf and none.more_runs == runs_needed("harm", 0.05, confidence)
    assert "never exit: 0 calibration runs" in none.why
