"""Signals: the formulas, and that a recorded run is judged by the very rule that is deployed, at the cost it has."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from reasonctl.backends.load import load_model
from reasonctl.calibration.fitting.all_signals import fit_signals
from reasonctl.calibration.fitting.stack import fit_stack
from reasonctl.calibration.fitting.tables import apply_to_run, apply_to_table, by_run, make_table, observations_of
from reasonctl.calibration.runs.arrays import to_arrays
from reasonctl.calibration.runs.collect import graded
from reasonctl.calibration.runs.worker import collect_run, one_run
from reasonctl.calibration.tasks.sources import load_task
from reasonctl.controller import ControllerError
from reasonctl.probes.exit import ProbeExit, make_exit
from reasonctl.probes.files.probe_file import ProbeFile, load_probe, save_probe
from reasonctl.probes.promise import Promise
from reasonctl.probes.risk.threshold import Threshold
from reasonctl.probes.signals.observation import Observation
from reasonctl.probes.signals.probe import Probe
from reasonctl.probes.signals.signals import (
    CHEAP,
    FULL,
    SIGNALS,
    Agreement,
    Entropy,
    Hidden,
    Stack,
    TrialConfidence,
    make_signal,
    streak,
)
from support import recipes
from support.probe_files import card

RECIPE = replace(recipes.RECIPE, seed=5)
TASK = load_task("tiny")
PROBLEMS = TASK.problems(24, stream=16)


@pytest.fixture(scope="module")
def records():
    return [
        graded(collect_run(RECIPE, i, problem.question), problem, TASK.grader) for i, problem in enumerate(PROBLEMS)
    ]


def observation(
    index: int, answer: str | None, settled: float = 0.5, entropy: float = 1.0, logprobs=(-0.1, -0.7)
) -> Observation:
    return Observation(index, 10 * index, settled, entropy, answer, logprobs if answer is not None else ())


def test_formulas():
    observations = [observation(0, "4"), observation(1, "5", 0.7, 0.5), observation(2, "5", 0.8, 0.1)]
    assert Hidden().score(observations) == 0.8
    assert TrialConfidence("mean").score(observations) == pytest.approx((math.exp(-0.1) + math.exp(-0.7)) / 2)
    assert TrialConfidence("geometric").score(observations) == pytest.approx(math.exp(-0.4))
    assert TrialConfidence("least").score(observations) == pytest.approx(math.exp(-0.7))
    assert [Agreement().score(observations[:k]) for k in (1, 2, 3)] == [1.0, 1.0, 2.0]
    assert Entropy().score(observations) == pytest.approx(-(0.5 * 0.1 + 0.5 * (0.5 * 0.5 + 0.5 * 1.0)))


def test_a_trial_without_an_answer_is_worth_nothing():
    empty = [observation(0, "", logprobs=()), observation(1, "", logprobs=())]
    assert Agreement().score(empty) == 0.0 and TrialConfidence().score(empty) == 0.0


def test_agreement_counts_only_cues_that_had_a_trial():
    assert streak([observation(0, "4"), observation(1, None), observation(2, "4")]) == 2
    assert streak([observation(0, None)]) == 0


def stack(low: float, high: float) -> Stack:
    weigh = [Probe((np.eye(len(names))[:, :1],), (np.zeros(1),)) for names in (CHEAP, FULL)]
    return Stack(low, high, *weigh)


def test_the_stack_tries_only_where_there_is_doubt():
    doubtful = stack(0.3, 0.7)
    assert [doubtful.wants_trial([observation(0, None, p)]) for p in (0.2, 0.3, 0.5, 0.7, 0.8)] == [
        False,
        True,
        True,
        True,
        False,
    ]
    assert doubtful.trials and not stack(1.0, 0.0).trials
    again = Stack.from_arrays(doubtful.arrays())
    assert again.score([observation(0, "4", 0.4)]) == doubtful.score([observation(0, "4", 0.4)]) == pytest.approx(0.4)
    with pytest.raises(ControllerError, match="band is missing"):
        Stack.from_arrays({})


def test_unknown_signals_are_one_line():
    with pytest.raises(ControllerError, match="signal is 'x'; this probe file has hidden, trial"):
        make_signal("x", None)
    with pytest.raises(ControllerError, match="signal is 'stack'"):
        make_signal("stack", None)


def fitted(records) -> ProbeFile:
    """A file with every signal, from a handful of runs; its stack always has doubts, so that trials happen."""
    made = fit_signals(
        to_arrays(records[:12]), to_arrays(records[12:]), RECIPE.cues, ("3 steps", "4 steps", "5 steps"), "harm", seed=0
    )
    held = make_table(
        to_arrays(records[12:]), made.tables["hidden"].table.scores, RECIPE.cues, ("3 steps", "4 steps", "5 steps")
    )
    doubts = stack(0.0, float(np.median(held.scores)))
    others = {name: table for name, table in made.tables.items() if name not in ("hidden", "stack")}
    table = apply_to_table(doubts, to_arrays(records[12:]), held)
    others["stack"] = replace(made.tables["hidden"], table=table)
    model = load_model("tiny", threads=1)
    described = card(
        depth=model.depth,
        width=model.width,
        layers=RECIPE.layers,
        cues=RECIPE.cues,
        suffix=RECIPE.suffix,
        max_cues=RECIPE.max_cues,
        sampler={"policy": RECIPE.policy, "answer_tokens": RECIPE.answer_tokens},
        domains=("3 steps", "4 steps", "5 steps"),
    )
    return ProbeFile(made.probe, made.tables["hidden"].grid, held, described, others, doubts)


ALIKE = ("trial-geometric", "trial-least", "entropy")
"""Signals that are read where another one is: of a trial's tokens, of a step's distribution."""


@pytest.mark.parametrize(
    "signal", [pytest.param(one, marks=[pytest.mark.slow] if one in ALIKE else []) for one in SIGNALS]
)
def test_a_recorded_run_is_judged_as_a_live_one(records, signal, tmp_path):
    """Same scores at every cue, same exit, same cost: replayed from the record, and by the rule in the loop."""
    save_probe(tmp_path / "p.safetensors", fitted(records))
    content = load_probe(tmp_path / "p.safetensors")
    model = RECIPE.load()
    part = to_arrays(records[12:])
    table = content.signal_table(signal).table
    values = np.unique(table.scores)
    middle = float(values[len(values) // 2 - 1 :][:2].mean())  # between two scores, so that rounding decides nothing
    threshold = Threshold(
        value=middle,
        mode="harm",
        risk=0.05,
        confidence=0.9,
        runs=table.runs,
        failures=0,
        more_runs=0,
        why="for this test",
    )
    exits = table.first_exit(middle)
    out = table.outcomes(exits)
    assert out.exited.sum() > 0
    for i, record in enumerate(part.records):
        rule = ProbeExit(content, Promise(signal=signal), threshold)
        trace, _ = one_run(RECIPE, model, record.run, record.question, rule)
        scores = [decision.score for decision in trace.decisions]
        expected = by_run(table, table.scores)[i]
        assert scores == pytest.approx(expected[: len(scores)], abs=1e-12)
        assert (trace.exit.index if trace.exit else -1) == exits[i]
        assert trace.cost == out.tokens[i]


def test_a_rule_that_never_exits_tries_nothing(records):
    content = fitted(records)
    never = Threshold(
        value=math.inf,
        mode="harm",
        risk=0.05,
        confidence=0.9,
        runs=12,
        failures=0,
        more_runs=33,
        why="too few runs",
    )
    for record in records[12:15]:
        rule = ProbeExit(content, Promise(signal="trial"), never)
        trace, _ = one_run(RECIPE, RECIPE.load(), record.run, record.question, rule)
        assert trace.cost == record.tokens == len(trace.tokens) and trace.exit is None
        some = ProbeExit(content, Promise(signal="trial"), replace(never, value=2.0))
        assert one_run(RECIPE, RECIPE.load(), record.run, record.question, some)[0].cost > record.tokens


def test_domains_have_thresholds_of_their_own(records):
    content = fitted(records)
    names = [record.domain for record in records[12:]]
    for k, domain in enumerate(content.card.domains):
        part = content.table.in_domain(k)
        assert part.runs == names.count(domain)
    rule = make_exit(content, Promise("wrong", 0.5, None, domain="4 steps"))
    assert rule.threshold.runs == names.count("4 steps")
    with pytest.raises(ControllerError, match="domain is 'algebra'; this probe was calibrated on '3 steps'"):
        make_exit(content, Promise("wrong", 0.5, None, domain="algebra"))


def test_the_stack_learns_which_signal_tells():
    """Labels follow the trial's answer alone: inside the band of doubt the stack must find it, the probe can't."""
    rng = np.random.default_rng(3)
    runs, labels = [], []
    for _ in range(200):
        observations = []
        for i in range(3):
            right = bool(rng.random() < 0.5)
            p = (-0.05, -0.1) if right else (-1.0, -2.0)
            observations.append(
                Observation(i, 10 * i, float(rng.uniform(0.2, 0.8)), 1.0, "7" if right else str(rng.integers(99)), p)
            )
            labels.append(right)
        runs.append(observations)
    made = fit_stack(runs, np.array(labels), seed=0)
    assert made is not None and made.stack.trials
    doubt = np.array([made.stack.wants_trial([seen]) for observations in runs for seen in observations])
    y = np.array(labels)
    assert doubt.mean() > 0.8
    assert made.held_out[doubt & y].min() > made.held_out[doubt & ~y].max()


def test_trials_are_paid_for_up_to_the_exit(records):
    part = to_arrays(records[12:])
    table = make_table(part, np.linspace(0, 1, int(part.offsets[-1])), RECIPE.cues)
    tried = apply_to_table(TrialConfidence(), part, table)
    for i, record in enumerate(part.records):
        costs = [cue.trial for cue in record.cues]
        first = int(table.offsets[i])
        assert tried.full_tokens[i] == record.tokens + sum(costs)
        for k, cue in enumerate(record.cues):
            assert tried.exit_tokens[first + k] == cue.tokens + sum(costs[: k + 1])
    scores, ran = apply_to_run(Hidden(), observations_of(part.records[0], [0.5] * len(part.records[0].cues)))
    assert not any(ran) and set(scores) == {0.5}
