"""Group-sequential boundaries: against enumeration and simulation, and what is refused. Promises: another file."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom

from reasonctl.controller import ControllerError
from reasonctl.probes.exit import make_exit
from reasonctl.probes.files.probe_file import SEALED, SignalTable, load_probe, save_probe
from reasonctl.probes.files.probe_file import _tensors as tensors_of
from reasonctl.probes.promise import Promise
from reasonctl.probes.risk.bounds import accepted, p_value
from reasonctl.probes.risk.drift import DriftMonitor
from reasonctl.probes.risk.give_up import LowerGrid, choose_lower
from reasonctl.probes.risk.stopping import MOST_ANALYSES, Stopping, fewest, first_analysis, following, planned
from reasonctl.probes.risk.table import Table
from reasonctl.probes.risk.threshold import Grid, choose_threshold
from support.probe_files import content
from support.simulated_runs import one_run, simulate, two_domains

CONFIDENCE = 0.9
ONE = Grid(np.array([0.5]), np.ones(1))


def acceptances(stopping: Stopping, boundaries: tuple[int, ...], risk: float) -> float:
    """P(some analysis accepts), by going through all sequences of failures."""
    total = 0.0
    for failed in itertools.product((0, 1), repeat=stopping.runs):
        counts = [sum(failed[:n]) for n in stopping.analyses]
        if any(count <= most for count, most in zip(counts, boundaries, strict=True)):
            total += math.prod(risk if one else 1 - risk for one in failed)
    return total


SMALL = [
    (Stopping("sequential", (4, 7, 11)), 0.5),
    (Stopping("sequential", (5, 6, 9, 14)), 0.3),
    (Stopping("sequential", (2, 2, 8, 12)), 0.6),
    (Stopping("fixed", (6, 13)), 0.35),
    (Stopping("fixed", (2, 12)), 0.35),
]


@pytest.mark.parametrize(("stopping", "risk"), SMALL)
@pytest.mark.parametrize("confidence", [0.7, 0.9])
def test_boundaries_are_the_largest_that_enumeration_allows(stopping: Stopping, risk: float, confidence: float) -> None:
    """Each boundary keeps the level spent so far, and one failure more would not."""
    boundaries, level = stopping.boundaries(risk, confidence), 1 - confidence
    for k in range(len(boundaries)):
        so_far = Stopping(stopping.design, stopping.analyses[: k + 1])
        spent = level if stopping.design == "fixed" else level * (k + 1) / (k + 2)
        kept, more = boundaries[: k + 1], (*boundaries[:k], boundaries[k] + 1)
        assert so_far.boundaries(risk, confidence) == kept
        assert acceptances(so_far, kept, risk) <= spent + 1e-12 < acceptances(so_far, more, risk)


@pytest.mark.parametrize(("stopping", "risk"), SMALL)
def test_a_larger_risk_is_accepted_less_often(stopping: Stopping, risk: float) -> None:
    boundaries = stopping.boundaries(risk, 0.7)
    found = [acceptances(stopping, boundaries, p) for p in (risk, risk + 0.1, risk + 0.2)]
    assert found == sorted(found, reverse=True) and found[0] <= 0.3


@pytest.mark.parametrize(("risk", "confidence"), [(0.1, 0.9), (0.05, 0.9), (0.2, 0.5)])
def test_simulated_runs_pass_some_analysis_as_seldom_as_promised(risk: float, confidence: float) -> None:
    """False-alarm rate: 0.13 % (three standard errors); and the level isn't wasted."""
    stopping = Stopping("sequential", planned(first_analysis(risk, confidence), 2000))
    failed = np.random.default_rng(5).random((20_000, stopping.runs)) < risk
    counts = np.cumsum(failed, axis=1, dtype=np.int32)[:, np.array(stopping.analyses) - 1]
    rate = float((counts <= np.array(stopping.boundaries(risk, confidence))).any(axis=1).mean())
    level = 1 - confidence
    error = 3 * math.sqrt(level * confidence / len(failed))
    print(f"risk {risk}: {rate:.4f} of sequences of failures pass, {level:.2f} may")
    assert 0.7 * level < rate <= level + error


def test_the_first_analysis_is_the_first_that_a_clean_record_passes() -> None:
    for risk, confidence in itertools.product((0.3, 0.1, 0.05, 0.01), (0.5, 0.9, 0.99)):
        n = first_analysis(risk, confidence)
        assert Stopping("sequential", (n,)).boundaries(risk, confidence) == (0,)
        assert n == 1 or Stopping("sequential", (n - 1,)).boundaries(risk, confidence) == (-1,)
    assert (first_analysis(0.1, 0.9), first_analysis(0.05, 0.9)) == (29, 59)


def test_the_analyses_go_on_for_ever_by_one_rule() -> None:
    analyses = planned(29, 1 << 31)
    assert planned(29, 100) == analyses[:6] and len(planned(1, 1 << 31)) < MOST_ANALYSES
    assert all(b == math.ceil(1.25 * a) == following(a) for a, b in itertools.pairwise(analyses[:40]))


def test_one_fixed_number_is_the_plain_test() -> None:
    for n, risk in itertools.product((1, 22, 45, 300), (0.02, 0.1, 0.4)):
        most = Stopping("fixed", (n,)).most_failures(risk, CONFIDENCE)
        assert p_value(most, n, risk) <= 0.1 < p_value(most + 1, n, risk) if most >= 0 else p_value(0, n, risk) > 0.1
    table, grid = simulate(300, 4), Grid.of(simulate(300, 5), 100)
    fixed = replace(table, stopping=Stopping("fixed", (300,)))
    for mode, risk in itertools.product(("harm", "wrong", "selective", "disagree", "event"), (0.02, 0.1, 0.3)):
        for confidence in (0.9, None) if mode != "selective" else (0.9,):
            plain, same = (choose_threshold(one, grid, mode, risk, confidence) for one in (table, fixed))
            assert (same.value, same.loosest, same.failures) == (plain.value, plain.loosest, plain.failures)


@pytest.mark.parametrize("risk", [0.05, 0.1, 0.2])
def test_the_joint_test_has_more_power_than_a_split_level(risk: float) -> None:
    stopping = Stopping("sequential", planned(first_analysis(risk, CONFIDENCE), 600))
    joint = stopping.boundaries(risk, CONFIDENCE)
    split = []
    for k, n in enumerate(stopping.analyses, start=1):
        so_far = Stopping("sequential", stopping.analyses[:k])
        counts = np.arange(-1, n)
        split.append(int(counts[binom.cdf(counts, n, risk) <= 1 - so_far.split(CONFIDENCE)][-1]))
    assert all(a >= b for a, b in zip(joint, split, strict=True)) and sum(joint) > sum(split)
    print(f"risk {risk}: joint {joint}, split {tuple(split)}")


def test_the_boundaries_are_monotone() -> None:
    """In the runs, in the risk and in the confidence."""
    analyses = planned(29, 700)
    by_risk = [Stopping("sequential", analyses).boundaries(risk, 0.9) for risk in (0.02, 0.05, 0.1, 0.2)]
    by_level = [Stopping("sequential", analyses).boundaries(0.1, confidence) for confidence in (0.99, 0.9, 0.5)]
    for rows in (by_risk, by_level):
        assert all(list(row) == sorted(row) for row in rows)
        assert all(a <= b for low, high in itertools.pairwise(rows) for a, b in zip(low, high, strict=True))


def test_a_far_design_is_quick_and_a_tiny_risk_takes_no_memory() -> None:
    stopping = Stopping("sequential", planned(29, 1 << 31))
    assert stopping.boundaries(1e-12, 0.9) == (-1,) * len(stopping.analyses)
    assert Stopping("sequential", ()).fewest(1e-12, 0.9) > 1e12
    assert Stopping("sequential", planned(29, 100)).enough(0, 93, 1e-9, 0.9) is None


# A fixed number of runs that was raised


def test_what_a_first_analysis_left_is_all_that_a_raised_number_has() -> None:
    assert (
        Stopping("fixed", (20, 60)).boundaries(0.1, 0.9)
        == (-1, 2)
        == (-1, Stopping("fixed", (60,)).most_failures(0.1, 0.9))
    )
    assert Stopping("fixed", (22, 60)).boundaries(0.1, 0.9)[1] < 2


# Tables and thresholds


def clean(runs: int, stopping: Stopping | None, failing: int = 0) -> Table:
    """Runs whose exit is right, but for the first few."""
    table = one_run([0.9], [True], runs=runs)
    return replace(table, right=np.arange(runs) >= failing, same=np.arange(runs) >= failing, stopping=stopping)


def test_only_runs_up_to_the_last_analysis_count() -> None:
    stopping = Stopping("sequential", (29,))
    found = choose_threshold(clean(36, stopping), ONE, "harm", 0.1, 0.9)
    assert (found.runs, found.value) == (29, 0.5)
    late = replace(clean(36, stopping), right=np.arange(36) < 29)
    assert choose_threshold(late, ONE, "harm", 0.1, 0.9).failures == 0


def test_a_fixed_boundary_is_not_used_at_an_analysis() -> None:
    """Two failures in 52 runs hold 0.1 if the number was fixed; not where collecting could have stopped before."""
    assert choose_threshold(clean(52, None, failing=2), ONE, "harm", 0.1, 0.9).value == 0.5
    stopping = Stopping("sequential", (29, 37, 47, 52))
    assert choose_threshold(clean(52, stopping, failing=2), ONE, "harm", 0.1, 0.9).value == math.inf


@pytest.mark.parametrize("mode", ["harm", "wrong", "disagree"])
@pytest.mark.parametrize("failing", [0, 1, 2, 3])
def test_the_threshold_follows_from_the_boundary(mode, failing: int) -> None:
    stopping = Stopping("sequential", planned(29, 60))
    found = choose_threshold(clean(60, stopping, failing), ONE, mode, 0.1, 0.9)
    assert (found.value < math.inf) == (failing <= stopping.most_failures(0.1, 0.9))


def test_missing_runs_are_those_of_a_later_analysis() -> None:
    stopping = Stopping("sequential", (29, 37))
    few = choose_threshold(clean(37, stopping), ONE, "harm", 0.05, 0.9)
    later = few.runs + (few.more_runs or 0)
    assert later in planned(29, 200) and Stopping("sequential", planned(29, later)).most_failures(0.05, 0.9) == 0
    bad = choose_threshold(clean(37, stopping, failing=1), ONE, "harm", 0.1, 0.9)
    later = bad.runs + (bad.more_runs or 0)
    assert later in planned(29, 2000) and later > 37 and "at this rate" in bad.why
    assert Stopping("sequential", planned(29, later)).most_failures(0.1, 0.9) >= later / 37
    hopeless = choose_threshold(clean(37, stopping, failing=20), ONE, "harm", 0.1, 0.9)
    assert hopeless.more_runs is None


@pytest.mark.parametrize(
    ("mode", "confidence", "stopping", "says"),
    [
        ("harm", None, Stopping("sequential", (29,)), "a marginal promise needs .* at 29"),
        ("event", 0.9, Stopping("sequential", (29, 37)), "mode 'event' needs .* 29, 37"),
        ("event", None, Stopping("fixed", (20, 30)), "mode 'event'"),
        ("harm", None, Stopping("fixed", (20, 30)), "a marginal promise"),
        ("selective", 0.9, Stopping("fixed", (20, 30)), "mode 'selective'"),
    ],
)
def test_promises_that_a_design_cannot_give_are_refused_by_name(mode, confidence, stopping, says: str) -> None:
    with pytest.raises(ControllerError, match=says):
        choose_threshold(clean(40, stopping), ONE, mode, 0.1, confidence)


def test_giving_up_uses_the_boundary_too() -> None:
    table = replace(simulate(60, 3), stopping=Stopping("sequential", planned(29, 60)))
    grid = LowerGrid.of(simulate(200, 4))
    found = choose_lower(table, grid, 0.1, 0.9)
    late = Stopping("sequential", planned(29, 60))
    assert found.runs == 59 and (found.curve.t0 == math.inf or found.failures <= late.most_failures(0.1, 0.9))
    plain = choose_lower(replace(table.analysed(), stopping=None), grid, 0.1, 0.9)
    assert found.curve.t0 >= plain.curve.t0
    with pytest.raises(ControllerError, match="marginal"):
        choose_lower(table, grid, 0.1, None)


def test_a_domain_is_tested_at_its_own_numbers_of_runs() -> None:
    both = two_domains(80, 1)
    order = np.random.default_rng(0).permutation(80)
    table = replace(both.select(order), problem=np.arange(80), stopping=Stopping("sequential", (29, 37, 47, 74)))
    part = table.in_domain(1)
    assert part.stopping is not None
    assert part.stopping.analyses == tuple(int((table.domain[:n] == 1).sum()) for n in (29, 37, 47, 74))
    assert part.analysed().runs == part.stopping.runs <= part.runs
    assert part.stopping.boundaries(0.3, 0.9)[0] == accepted_at(part.stopping.first, 0.3, 0.95)


def accepted_at(n: int, risk: float, confidence: float) -> int:
    """Most failures that a test at n runs accepts."""
    counts = np.arange(n + 1)
    return accepted(counts, np.full(n + 1, n), risk, confidence) - 1


def test_parts_in_another_order_have_no_design() -> None:
    table = clean(40, Stopping("sequential", (29,)))
    for runs in ([3, 2], [1, 1]):
        with pytest.raises(ControllerError, match="out of their order"):
            table.select(runs)
    with pytest.raises(ControllerError, match="holds 20 runs, its stopping design names 29"):
        replace(clean(20, None), stopping=Stopping("sequential", (29,)))


def test_the_drift_test_compares_with_a_sample_that_no_outcome_has_chosen() -> None:
    table = clean(40, Stopping("sequential", (29, 37)))
    assert len(DriftMonitor.of(table).reference) == 29 and len(DriftMonitor.of(clean(40, None)).reference) == 40


# JSON


def test_a_design_survives_json() -> None:
    for stopping in (Stopping("sequential", planned(29, 500)), Stopping("fixed", (200,)), Stopping("sequential", ())):
        assert Stopping.from_json(stopping.to_json()) == stopping


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        "sequential",
        {},
        {"design": "sequential"},
        {"design": "sequential", "analyses": [29], "more": 1},
        {"design": "whenever", "analyses": [29]},
        {"design": 1, "analyses": [29]},
        {"design": "fixed", "analyses": 29},
        {"design": "fixed", "analyses": [29, 29]},
        {"design": "fixed", "analyses": [30, 29]},
        {"design": "fixed", "analyses": [0, 29]},
        {"design": "fixed", "analyses": [-1]},
        {"design": "fixed", "analyses": [True]},
        {"design": "fixed", "analyses": [29.0]},
        {"design": "fixed", "analyses": [None]},
        {"design": "fixed", "analyses": [1 << 40]},
        {"design": "fixed", "analyses": list(range(1, MOST_ANALYSES + 2))},
    ],
)
def test_what_is_no_design_is_one_error(value: object) -> None:
    with pytest.raises(ControllerError) as caught:
        Stopping.from_json(value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_fewest_is_the_closed_form() -> None:
    assert [fewest(risk, 0.9) for risk in (0.1, 0.05, 0.02, 0.01)] == [22, 45, 114, 230]
    assert Stopping("fixed", (20,)).fewest(0.1, 0.9) == 22
    assert Stopping("sequential", planned(29, 40)).fewest(0.1, 0.9) == 29


# The probe file


def test_a_probe_file_reads_every_promise_by_its_cards_design(tmp_path: Path) -> None:
    stopping, path = Stopping("sequential", (29, 37)), tmp_path / "p.safetensors"
    was = content(40, stopping=stopping)
    save_probe(path, replace(was, others={"entropy": SignalTable(was.grid, replace(was.table, stopping=None))}))
    read = load_probe(path)
    assert read.card == was.card and read.card.stopping == stopping and read.table.runs == 40
    assert all(read.signal_table(name, domain).table.stopping == stopping for name, domain in ASKED)
    assert make_exit(read, Promise(risk=0.1)).threshold.runs == 37
    assert make_exit(read, Promise(risk=0.05)).threshold.value == math.inf
    with pytest.raises(ControllerError, match="a marginal promise"):
        make_exit(read, Promise(risk=0.1, confidence=None))
    monitor = make_exit(read, Promise(risk=0.1)).monitor
    assert monitor is not None and len(monitor.reference) == 29


ASKED = (("hidden", None), ("hidden", ""), ("entropy", None), ("entropy", ""))


def test_a_card_without_a_design_has_the_bytes_that_it_had(tmp_path: Path) -> None:
    assert "stopping" not in content().card.to_dict()
    save_probe(tmp_path / "old", content())
    assert load_probe(tmp_path / "old").card.stopping is None


def test_a_file_with_a_broken_design_is_one_error(tmp_path: Path) -> None:
    was = content(40, stopping=Stopping("sequential", (29, 37)))
    for stopping in ({"design": "fixed", "analyses": [50]}, {"design": "x", "analyses": [1]}, [29], {"analyses": []}):
        SEALED.save(tmp_path / "p", tensors_of(was), {**was.card.to_dict(), "stopping": stopping})
        with pytest.raises(ControllerError, match="stopping design") as caught:
            load_probe(tmp_path / "p")
        assert "\n" not in str(caught.value)
