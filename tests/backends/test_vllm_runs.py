"""Runs that vLLM makes for a rule that collects: the rule sees what our own loop would have shown it."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest

from reasonctl.backends.vllm import runs as vllm_runs
from reasonctl.backends.vllm.following import Exits
from reasonctl.backends.vllm.recording import Recorder, Records
from reasonctl.controller import Call, Controller, ControllerError, Cues, Decision, ExitRule, Keys, Sampling, Trace
from reasonctl.controller.thinking import EXIT_FORMS
from support.toy_thinking import ENGINE, EOS, PROMPT, TEXTS, THINKING, TOKENIZER
from support.vllm_simulated import SimulatedEngine

RUNS, MOST, LONGEST = 25, 60, 9


@dataclass
class Collecting(ExitRule):
    """Tries an answer at every cue, and writes down all that it is given."""

    form: str = "replace"
    exits: bool = False
    seen: list = field(default_factory=list)
    trials: bool = True
    max_cues = 6

    def __post_init__(self):
        self.markers, self.cues, self.suffix = THINKING.markers, Cues(["wait", "paragraph"]), THINKING.suffix

    def layers(self, depth):
        return (0, 2)

    def decide(self, at):
        entropy = at.entropy()
        trials = []
        for cue in (at.cue, *at.cue.also):
            trial = yield from at.answer(LONGEST, cue)
            trials.append((trial.tokens, trial.text, trial.cost, trial.complete))
        hidden = {layer: state.tolist() for layer, state in at.hidden.items()}
        self.seen.append((at.cue, list(at.tokens), at.forced, at.prompt, hidden, round(entropy, 9), trials))
        return Decision(self.exits, at.cue.name, at.cue.index, at.cue.first - at.prompt, 0.0, 1.0)


class Recording(SimulatedEngine):
    """The simulated engine, whose processor records; the entropies are those of the rows that were asked for."""

    def __init__(self, rule, folder):
        super().__init__(rule)
        exits = Exits.of(rule, TOKENIZER, THINKING, EOS, len(TEXTS) + 1)
        self.requests = Recorder(exits, folder=str(folder))

    def _features(self, asked):
        rows = []
        for one in asked:
            tokens = [*one.asked.prompt, *one.output]
            rows.append([value for k in (0, 2) for value in (tokens[-1], len(tokens) - 1, k)])
        probs = [ENGINE.probs([*one.asked.prompt, *one.output]) for one in asked]
        self.requests.entropies = np.array([-(p[p > 0] * np.log(p[p > 0])).sum() for p in probs])
        return np.array(rows, dtype=np.float64)


def call_of(seed):
    return Call(list(PROMPT), MOST, frozenset({EOS}), Keys(seed=seed), Sampling())


def in_our_loop(rule, seed):
    session, trace = ENGINE.session(), Trace()
    for _ in Controller(exit=rule, thinking=THINKING).stream(session, TOKENIZER, call_of(seed), trace):
        pass
    return trace


@pytest.fixture
def in_vllm(monkeypatch, tmp_path):
    """Makes runs in the simulated engine, each with the keys of our own loop."""
    monkeypatch.setattr(vllm_runs, "_seed", lambda call, _: call.keys.seed)
    monkeypatch.setattr(vllm_runs, "sampling_of", lambda policy: {})

    def run_all(engine, runs, params):
        engine.make(runs, [one["seed"] for one in params])

    monkeypatch.setattr(vllm_runs, "run_all", run_all)

    def make(rules):
        engine, records = Recording(rules[0], tmp_path), Records(tmp_path, 6)
        fake = SimpleNamespace(started=lambda _: engine, recorded=records.fresh, thinking=lambda suffix: THINKING)
        model = SimpleNamespace(engine=fake, tokenizer=TOKENIZER, eos=frozenset({EOS}), depth=ENGINE.layers)
        runs = [(Controller(exit=rule, thinking=THINKING), call_of(seed)) for seed, rule in enumerate(rules)]
        return vllm_runs.make_runs(model, runs)

    return make


@pytest.mark.parametrize("form", EXIT_FORMS)
def test_a_collecting_rule_sees_the_same(form, in_vllm):
    """Cues, states, entropies, and every trial's answer."""
    rules = [Collecting(form) for _ in range(RUNS)]
    traces = in_vllm(rules)
    for seed, (rule, trace) in enumerate(zip(rules, traces, strict=True)):
        own = Collecting(form)
        ours = in_our_loop(own, seed)
        assert trace.tokens == ours.tokens and trace.finish_reason == ours.finish_reason
        assert rule.seen == own.seen
    assert sum(len(rule.seen) for rule in rules) > RUNS / 2


def test_a_rule_that_exits_is_refused(in_vllm):
    with pytest.raises(ControllerError, match="in vLLM runs are made for rules that never exit"):
        in_vllm([Collecting(exits=True) for _ in range(RUNS)])


def test_records_are_read_once(tmp_path):
    records = Records(tmp_path, 2)
    assert records.fresh() == {}
    from reasonctl.backends.vllm.recording import FILE, layout

    row = np.zeros(1, dtype=layout(2))
    row["run"], row["row"], row["entropy"], row["state"] = 3, 7, 0.5, [[1, 2]]
    with (tmp_path / FILE).open("ab") as file:
        file.write(row.tobytes())
    found = records.fresh()
    assert found[3, 7].entropy == 0.5 and found[3, 7].state.tolist() == [1, 2] and records.fresh() == {}
