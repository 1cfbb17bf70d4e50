"""What an exit is said to save is what the calibration's own exits saved."""

from __future__ import annotations

import numpy as np
import pytest

from reasonctl.backends import BUNDLED_PROBE
from reasonctl.probes import load_exit
from reasonctl.probes.exit import ProbeExit
from reasonctl.probes.risk.exit_savings import GROUP, ExitSavings
from reasonctl.probes.risk.table import NO_EXIT, Table

REDRAWS, RUNS, USES = 100, 72, 200


def exits_of(rule: ProbeExit, table: Table) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the rule's exits in these runs, and the tokens that they save."""
    exits = table.first_exit(rule.threshold.value)
    runs = exits != NO_EXIT
    saved = (table.full_tokens - table.outcomes(exits).tokens)[runs]
    return table.positions[table.offsets[:-1][runs] + exits[runs]], saved


def said_by(rule: ProbeExit, positions: np.ndarray) -> np.ndarray:
    return np.array([rule.expected_saving(int(position)) for position in positions])


def test_over_the_calibrations_exits_it_is_what_they_saved() -> None:
    rule = load_exit(BUNDLED_PROBE, risk=0.05)
    positions, saved = exits_of(rule, rule.content.signal_table("hidden").table)
    assert len(saved) > 100 and said_by(rule, positions).mean() == pytest.approx(saved.mean(), rel=1e-9)
    early, late = rule.expected_saving(0), rule.expected_saving(10_000)
    assert early is not None and late is not None and early != late


def runs_of(random: np.random.Generator, n: int) -> Table:
    """Runs of one cue, at which all exit: most early, some very late, and the saving falls ever more slowly."""
    positions = random.exponential(60.0, n).astype(int)
    saved = (400 * np.exp(-positions / 40) + random.normal(0.0, 15.0, n) + 60).astype(int)
    return Table(
        offsets=np.arange(n + 1),
        positions=positions,
        scores=np.ones(n),
        right=np.ones(n),
        same=np.ones(n),
        exit_tokens=positions + 4,
        cue_name=np.zeros(n),
        full_right=np.ones(n),
        full_tokens=positions + 4 + saved,
        problem=np.arange(n),
    )


def nearest(positions: np.ndarray, saved: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The mean over the 25 exits that are nearest."""
    return np.array([saved[np.argsort(np.abs(positions - one), kind="stable")[:25]].mean() for one in at])


def test_over_many_uses_it_is_the_truth() -> None:
    """100 calibrations drawn anew. False alarm: 0.3 % at three standard errors, and the seed is fixed.

    The negative control is the mean over the nearest exits, which says too much.
    """
    random, loaded = np.random.default_rng(5), load_exit(BUNDLED_PROBE, risk=0.05)
    errors = np.empty((2, REDRAWS))
    for i in range(REDRAWS):
        table = runs_of(random, RUNS)
        rule = ProbeExit(loaded.content, loaded.promise, loaded.threshold, table=table)
        used, truth = exits_of(rule, runs_of(random, USES))
        near = nearest(*exits_of(rule, table), used)
        errors[:, i] = [said.mean() - truth.mean() for said in (said_by(rule, used), near)]
    within = 3 * errors.std(axis=1, ddof=1) / np.sqrt(REDRAWS)
    bias = errors.mean(axis=1)
    assert abs(bias[0]) <= within[0] and bias[1] > 2 * within[1]


def test_every_exit_is_in_one_group_of_its_neighbours() -> None:
    few = ExitSavings.of(np.array([30, 10]), np.array([50, 60]))
    assert few.at(0) == few.at(1000) == 55
    random = np.random.default_rng(2)
    for n in (1, GROUP, GROUP + 1, 2 * GROUP, 200):
        positions, saved = random.integers(0, n, n), random.integers(-5, 300, n)
        found = ExitSavings.of(positions, saved)
        said = np.array([found.at(int(position)) for position in positions])
        assert said.sum() == pytest.approx(saved.sum())
        group = np.searchsorted(found.ends, positions)
        assert (np.bincount(group) >= min(n, GROUP)).all()
    apart = ExitSavings.of(np.repeat([5, 9, 20], [GROUP, GROUP, 3]), np.repeat([70, 50, 30], [GROUP, GROUP, 3]))
    assert apart.at(0) == apart.at(7) == 70 and apart.at(8) == apart.at(99) == pytest.approx((15 * 50 + 3 * 30) / 18)


def test_a_rule_that_never_exits_says_nothing() -> None:
    assert load_exit(BUNDLED_PROBE, risk=0.0001).expected_saving(10) is None
