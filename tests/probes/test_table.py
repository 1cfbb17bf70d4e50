"""The calibration table: first exits, their outcomes, sums over them, sub-tables."""

from __future__ import annotations

import math

import numpy as np
import pytest

from reasonctl.controller import ControllerError
from reasonctl.probes.risk.table import NO_EXIT, Table
from support.simulated_runs import flat, one_run, simulate


def random_table(seed: int) -> Table:
    """Few runs of 0 to 5 cues with many equal scores."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 6, 40)
    cues = int(lengths.sum())
    return Table(
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        positions=np.arange(cues),
        scores=rng.integers(0, 9, cues) / 8,
        right=rng.random(cues) < 0.5,
        same=rng.random(cues) < 0.5,
        exit_tokens=rng.integers(0, 50, cues),
        cue_name=np.zeros(cues),
        full_right=rng.random(40) < 0.6,
        full_tokens=rng.integers(50, 90, 40),
        problem=np.arange(40),
        domain=rng.integers(0, 3, 40),
    )


THRESHOLDS = [-math.inf, 0.0, 0.2, 0.25, 0.5, 0.875, 1.0, math.inf]


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


@pytest.mark.parametrize("seed", range(20))
def test_sums_at_exits_equal_the_outcomes_one_by_one(seed: int) -> None:
    table = random_table(seed)
    out = [table.outcomes(table.first_exit(value)) for value in THRESHOLDS]
    assert table.sum_at_exits(THRESHOLDS, ~table.right).tolist() == [int(o.wrong.sum()) for o in out]
    assert table.sum_at_exits(THRESHOLDS, np.ones(table.cues, bool)).tolist() == [int(o.exited.sum()) for o in out]
    saved = table.full_tokens[table.run_of] - table.exit_tokens
    assert table.sum_at_exits(THRESHOLDS, saved).tolist() == [int((table.full_tokens - o.tokens).sum()) for o in out]


def test_sums_over_no_cue() -> None:
    assert one_run([], []).sum_at_exits([0.5], np.zeros(0, dtype=bool)).tolist() == [0]


@pytest.mark.parametrize("seed", range(20))
def test_first_of_two_rules_equals_a_walk_down_every_run(seed: int) -> None:
    table, low = random_table(seed), np.random.default_rng(seed).random(random_table(seed).cues) < 0.3
    found, gave_up = table.first_of(0.6, low)
    for run in range(table.runs):
        expected = (NO_EXIT, False)
        for cue in range(table.offsets[run], table.offsets[run + 1]):
            if table.scores[cue] > 0.6 or low[cue]:
                expected = (cue - table.offsets[run], table.scores[cue] <= 0.6)
                break
        assert (found[run], gave_up[run]) == expected
    alone, never = table.first_of(0.6, np.zeros(table.cues, dtype=bool))
    assert (alone == table.first_exit(0.6)).all() and not never.any()


def test_select_keeps_runs_whole() -> None:
    table, chosen = simulate(50, seed=8), [7, 3, 30]
    picked = table.select(chosen)
    for i, run in enumerate(chosen):
        was = slice(table.offsets[run], table.offsets[run + 1])
        now = slice(picked.offsets[i], picked.offsets[i + 1])
        assert (picked.scores[now] == table.scores[was]).all() and picked.full_tokens[i] == table.full_tokens[run]
    assert table.first_exit(0.8)[chosen].tolist() == picked.first_exit(0.8).tolist()


def test_domains_are_one_unless_given() -> None:
    assert simulate(5, 0).domain.tolist() == [0] * 5 and simulate(5, 0).domain.dtype == np.int32
    table = random_table(1)
    for domain in range(3):
        part, runs = table.in_domain(domain), np.flatnonzero(table.domain == domain)
        assert (part.domain == domain).all() and (part.problem == runs).all() and part.runs == len(runs) > 0
        assert (part.full_tokens == table.full_tokens[runs]).all()
    assert table.in_domain(7).runs == 0
    with pytest.raises(ControllerError, match="domain holds a negative"):
        Table(**{**table.arrays(), "domain": np.full(40, -1)})
    with pytest.raises(ControllerError, match="domain has shape"):
        Table(**{**table.arrays(), "domain": np.zeros(3)})


def test_arrays_without_domains_are_read_and_others_are_refused() -> None:
    table = random_table(2)
    arrays = table.arrays()
    assert all((Table.from_arrays(arrays).arrays()[name] == array).all() for name, array in arrays.items())
    old = {name: array for name, array in arrays.items() if name != "domain"}
    assert not Table.from_arrays(old).domain.any()
    for wrong in ({**arrays, "other": arrays["scores"]}, {k: v for k, v in old.items() if k != "problem"}):
        with pytest.raises(ControllerError, match="arrays differ by"):
            Table.from_arrays(wrong)


def test_flat_runs() -> None:
    table = flat(np.array([[0.2, 0.6], [0.7, 0.1]]), np.array([[True, False], [False, True]]))
    assert table.first_exit(0.5).tolist() == [1, 0] and table.outcomes(table.first_exit(0.5)).harm.all()
