"""Exits tried at the records of a run's scores only: thresholds and promises are those of all labels, to the bit."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from reasonctl.calibration.evaluation.redraws import check, redraw, true_rates, verdict_on
from reasonctl.controller import ControllerError
from reasonctl.probes.exit import make_exit
from reasonctl.probes.files.probe_file import load_probe, save_probe
from reasonctl.probes.promise import Promise
from reasonctl.probes.risk.give_up import LowerGrid, choose_lower
from reasonctl.probes.risk.table import Table
from reasonctl.probes.risk.threshold import Grid, Mode, choose_threshold
from support.probe_files import content
from support.simulated_runs import one_run, simulate

MODES: tuple[Mode, ...] = ("harm", "wrong", "selective", "disagree")


def records_above(table: Table, floor: float) -> np.ndarray:
    """Shape (cues,): scores above the floor and above all earlier ones of their run; counted one by one."""
    tried = []
    for start, end in zip(table.offsets, table.offsets[1:], strict=False):
        highest = floor
        for score in table.scores[start:end]:
            tried.append(score > highest)
            highest = max(highest, score)
    return np.array(tried)


def at_records(table: Table, floor: float, seed: int) -> Table:
    """The table as `--labels records` collects it, with noise for every outcome that it doesn't know."""
    tried, rng = records_above(table, floor), np.random.default_rng(seed)
    noise = rng.random(table.cues) < 0.5
    return replace(
        table,
        right=np.where(tried, table.right, noise),
        same=np.where(tried, table.same, noise),
        exit_tokens=np.where(tried, table.exit_tokens, rng.integers(0, 500, table.cues)),
        labelled=tried,
    )


def rounded(table: Table, seed: int) -> Table:
    """Every third table with tied scores."""
    return table.with_scores(np.round(table.scores, 2)) if seed % 3 == 0 else table


@pytest.mark.parametrize("seed", range(40))
def test_thresholds_and_promises_are_those_of_all_labels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    table = rounded(simulate(int(rng.integers(30, 250)), seed, float(rng.uniform(0.6, 3))), seed)
    whole = Grid.of(rounded(simulate(60, seed + 1000), seed), int(rng.integers(5, 200)))
    floor = float(np.quantile(whole.thresholds, rng.uniform(0, 1), method="inverted_cdf"))
    grid, few = whole.down_to(floor), at_records(table, floor, seed)
    assert grid.loosest == floor and few.labelled.mean() < 0.5
    for mode in MODES:
        for risk in (0.02, *rng.uniform(0.03, 0.5, 3)):
            confidence = float(rng.choice([0.5, 0.8, 0.9, 0.95]))
            found = choose_threshold(few, grid, mode, risk, confidence)
            assert found == choose_threshold(table, grid, mode, risk, confidence)
            uncut = choose_threshold(table, whole, mode, risk, confidence)
            if mode != "selective" and floor < uncut.loosest < math.inf:
                assert replace(found, why="") == replace(uncut, why="")
            if mode != "selective" and uncut.loosest <= floor:
                assert found.loosest == floor
            assert ("the floor" in found.why) == (found.loosest == floor)


def test_redraws_come_out_the_same() -> None:
    pool, whole = simulate(600, 1), Grid.of(simulate(200, 3), 80)
    grid = whole.down_to(0.3)
    few = at_records(pool, grid.loosest, 0)
    for mode in MODES:
        verdicts = [
            check(
                table,
                lambda drawn, mode=mode: choose_threshold(drawn, grid, mode, 0.1, 0.9).value,
                mode,
                0.1,
                0.9,
                runs=150,
                draws=60,
            )
            for table in (pool, few)
        ]
        assert verdicts[0] == verdicts[1] and verdicts[0].holds


@pytest.mark.parametrize("mode", ["harm", "wrong", "disagree"])
def test_the_marginal_form_keeps_its_promise_and_stays_above_the_floor(mode: Mode) -> None:
    """Thresholds from records may be lower than those of all labels; the true mean risk is still kept."""
    pool, grid = simulate(1500, 5), Grid.of(simulate(200, 3), 80).down_to(0.4)
    few = at_records(pool, grid.loosest, 0)
    pairs = zip(redraw(pool, 60, 300, seed=1), redraw(few, 60, 300, seed=1), strict=True)
    values = np.array([[choose_threshold(table, grid, mode, 0.1, None).value for table in pair] for pair in pairs])
    every, records = values.T
    assert (records >= grid.loosest).all() and (records <= np.maximum(every, grid.loosest)).all()
    assert (records < every).any()
    assert verdict_on(true_rates(pool, mode, records), 0.1, None).holds


def test_a_domain_whose_cues_all_happen_to_be_labelled_keeps_the_floor() -> None:
    table, grid = one_run([0.7], [True], runs=20), Grid(np.array([0.9, 0.5]), np.ones(2)).down_to(0.5)
    assert choose_threshold(table, grid, "harm", 0.1, None).value == 0.5
    assert choose_threshold(table, replace(grid, floored=False), "harm", 0.1, None).value == -math.inf


def test_an_outcome_that_was_not_collected_is_never_read() -> None:
    table, grid = simulate(60, 2), Grid.of(simulate(60, 3), 50)
    few = at_records(table, 0.5, 0)
    with pytest.raises(ControllerError, match=r"not collected; calibrate with --labels all"):
        choose_threshold(few, grid, "harm", 0.2, 0.9)
    with pytest.raises(ControllerError, match="mode 'event' needs the answer of an exit at every cue"):
        choose_threshold(few, grid.down_to(0.5), "event", 0.2, None)
    with pytest.raises(ControllerError, match="giving up needs"):
        choose_lower(few, LowerGrid.of(table), 0.2, 0.9)
    with pytest.raises(ControllerError, match="not collected"):
        few.outcomes(few.first_exit(0.2))
    with pytest.raises(ControllerError, match="not collected"):
        few.outcomes(np.zeros(few.runs, dtype=int))
    few.outcomes(few.first_exit(0.5))
    few.outcomes(few.first_exit(np.inf))
    assert (
        few.select([3, 1]).labelled.tolist()
        == np.concatenate([few.labelled[few.run_of == 3], few.labelled[few.run_of == 1]]).tolist()
    )


def test_a_record_below_the_floor_is_no_exit_and_one_at_it_neither() -> None:
    table = one_run([0.2, 0.5, 0.4, 0.7, 0.6], [True] * 5, runs=2)
    assert records_above(table, 0.5).tolist() == [False, False, False, True, False] * 2
    assert table.first_exit(0.5).tolist() == [3, 3]


def test_a_file_keeps_what_is_labelled_and_an_older_one_has_all(tmp_path) -> None:
    whole = content()
    assert "labelled" not in whole.table.arrays() and set(whole.card.to_dict()).isdisjoint({"labels", "form"})
    tried = records_above(whole.table, 0.5)
    few = replace(
        whole,
        table=whole.table.with_labels(tried),
        grid=whole.grid.down_to(0.5),
        card=replace(whole.card, labels="records", runs_sha256="0" * 64),
    )
    save_probe(tmp_path / "p.safetensors", few)
    found = load_probe(tmp_path / "p.safetensors")
    assert found.table.labelled.tolist() == tried.tolist() and found.card == few.card
    assert make_exit(found, Promise(risk=0.2)).threshold == make_exit(few, Promise(risk=0.2)).threshold
    with pytest.raises(ControllerError, match="no signal 'trial'; it has hidden: the others were not collected"):
        make_exit(found, Promise(signal="trial"))
    with pytest.raises(ControllerError, match="giving up needs the answer"):
        make_exit(found, Promise(give_up=0.1))
    with pytest.raises(ControllerError, match="labels and its signals don't fit"):
        replace(few, card=replace(few.card, labels="all"))
    with pytest.raises(ControllerError, match="lacks answers"):
        replace(few, grid=replace(few.grid, floored=False), card=replace(few.card, labels="all"))
    with pytest.raises(ControllerError, match="records or all"):
        replace(few.card, labels="some")
