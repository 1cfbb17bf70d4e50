"""Shadow mode: the rule decides and is recorded, and no token differs from a run without it. Cues every k tokens."""

from __future__ import annotations

import pytest

from reasonctl.controller import ControllerError, Cues, PromptLookup
from reasonctl.controller.decoding.close_thinking import ThinkingControl
from support.scripted import RandomTree, Scripted
from support.toy_thinking import PROMPT, TEXTS, THINKING, TOKENIZER, account, run

DRAFTERS = [None, PromptLookup(size=4), RandomTree(len(TEXTS))]
SUFFIX = "</think>So "


def check(seeds, drafter=None, answer_tokens=0, names=("wait",)):
    """Number of runs whose rule would have exited."""
    would = 0
    for seed in range(seeds):
        plain, _ = run(seed=seed)
        rules = [
            Scripted(lambda at: at.cue.index >= 1, SUFFIX, cues=Cues(names), answer_tokens=answer_tokens)
            for _ in range(2)
        ]
        tokens, trace = run(seed=seed, exit=rules[0], drafter=drafter, shadow=True)
        assert tokens == plain and trace.exit is None and trace.forced is None
        _, acted = run(seed=seed, exit=rules[1], drafter=drafter)
        assert trace.would_exit == acted.exit
        assert trace.decisions[: len(acted.decisions)] == acted.decisions
        if acted.exit is None:
            assert trace.why.startswith("shadow: no exit")
            continue
        would += 1
        end = trace.thinking[1]
        assert trace.would_save == end - acted.exit.position >= 0
        assert "shadow: would have exited at cue 2" in trace.why and f"{trace.would_save} thinking tokens" in trace.why
        assert "</think>" not in TOKENIZER.decode(tokens[:end])
        assert len(trace.decisions) >= len(acted.decisions)
    return would


@pytest.mark.parametrize("drafter", DRAFTERS, ids=lambda d: type(d).__name__)
@pytest.mark.parametrize("answer_tokens", [0, 4])
def test_a_shadowed_run_is_an_uncontrolled_run(drafter, answer_tokens):
    assert check(12, drafter, answer_tokens) >= 3


def test_a_cue_that_stays_is_not_saved():
    saved = 0
    for seed in range(20):
        rules = [Scripted(lambda at: at.cue.index >= 1, SUFFIX, cues=Cues(["wait"])) for _ in range(2)]
        for rule in rules:
            rule.form = "append"
        _, trace = run(seed=seed, exit=rules[0], shadow=True)
        _, acted = run(seed=seed, exit=rules[1])
        if acted.exit is not None:
            assert trace.would_save == trace.thinking[1] - acted.spans[0].end
            saved += trace.thinking[1] - acted.exit.position > trace.would_save
    assert saved > 2


def test_a_budget_still_holds_in_the_shadow_of_a_rule():
    for seed in range(8):
        rule = Scripted(lambda at: True, SUFFIX)
        tokens, trace = run(seed=seed, exit=rule, shadow=True, budget=7)
        assert (tuple(tokens), trace.closed_by) == account(seed=seed, budget=7)


def test_a_rule_that_acts_is_caught(monkeypatch):
    monkeypatch.setattr(ThinkingControl, "_ask", _acting(ThinkingControl._ask))
    with pytest.raises(AssertionError):
        check(20)


def _acting(ask):
    def act(self, rule, cue, step, node):
        object.__setattr__(self.settings, "shadow", False)
        return (yield from ask(self, rule, cue, step, node))

    return act


@pytest.mark.parametrize("drafter", DRAFTERS, ids=lambda d: type(d).__name__)
def test_every_k_tokens_an_exit_loses_nothing_that_was_thought(drafter):
    exits = 0
    for seed in range(16):
        plain, plain_trace = run(seed=seed, thinking=THINKING, min_thinking=0)
        rule = Scripted(lambda at: at.cue.index == 2, SUFFIX, cues=Cues(["every(4)"]))
        tokens, trace = run(seed=seed, exit=rule, drafter=drafter)
        for at in rule.seen:
            assert (at.cue.name, at.cue.before) == ("every(4)", "") and at.cue.first == at.cue.last + 1
            assert at.cue.first - at.prompt >= 4 * (at.cue.index + 1)
            assert list(at.hidden[2]) == [at.tokens[at.cue.last], at.cue.last, 2]
        if trace.exit is None:
            assert tokens == plain
            continue
        exits += 1
        at = trace.exit.position
        assert tokens[:at] == plain[:at] and at in (12, 13, 14)
        assert TOKENIZER.decode(tokens[at : sum(trace.forced)]) == SUFFIX
        assert trace.thinking == (0, at)
    assert exits >= 4


def test_a_trial_every_k_tokens_is_the_exit_itself():
    tried = 0
    for seed in range(6):
        rule = Scripted(lambda at: False, SUFFIX, cues=Cues(["every(5)", "wait"]), answer_tokens=6)
        run(seed=seed, exit=rule)
        for i, answer in enumerate(rule.answers[:4]):
            leave = Scripted(lambda at, i=i: at.cue.index == i, SUFFIX, cues=Cues(["every(5)", "wait"]))
            tokens, trace = run(seed=seed, exit=leave)
            assert tokens[sum(trace.forced) :][:6] == answer
            tried += 1
    assert tried > 10


@pytest.mark.parametrize("name", ["every", "every()", "every(0)", "every(-2)", "every(2.5)", "every(k)", "every (4)"])
def test_every_needs_a_whole_number(name):
    with pytest.raises(ControllerError, match="whole number of tokens, at least 1: 'every\\(64\\)'") as caught:
        Cues(["wait", name])
    assert "\n" not in str(caught.value)


def test_one_every():
    with pytest.raises(ControllerError, match="give one every"):
        Cues(["every(4)", "every(8)"])
    assert Cues(["every(8)"]).pattern.search("every 8 words") is None
    assert PROMPT
