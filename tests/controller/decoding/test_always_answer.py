"""An end-of-sequence inside thinking closes it where that is asked for: the model then answers."""

from __future__ import annotations

import pytest

from reasonctl.controller import PromptLookup
from support.scripted import RandomTree, Scripted
from support.toy_thinking import BARE, EOS, HALF, OPENING, TEXTS, THINKING, TOKENIZER, Recurrent, account, run

DRAFTERS = [None, PromptLookup(size=4), RandomTree(len(TEXTS))]
SEEDS = range(150)


def ended_inside(seed):
    """The run ends inside its thinking, with room for an answer."""
    tokens, closer = account(seed=seed)
    return tokens[-1] == EOS and closer is None and len(tokens) < 50


@pytest.mark.parametrize("drafter", DRAFTERS, ids=lambda d: type(d).__name__)
def test_the_end_gives_way_to_the_answer_as_if_a_budget_had_closed_there(drafter):
    ended = 0
    for seed in SEEDS:
        tokens, trace = run(seed=seed, drafter=drafter, thinking=THINKING, always_answer=True)
        free = account(seed=seed)[0]
        if not ended_inside(seed):
            assert tuple(tokens) == free and trace.closed_by != "end"
            continue
        ended += 1
        assert tuple(tokens) == account(seed=seed, budget=len(free) - 1)[0]
        assert trace.closed_by == "end" and EOS not in tokens[:-1]
        assert trace.why == "the model ended the sequence inside its thinking, which was closed"
        assert TOKENIZER.decode(tokens).count("</think>") == 1
        half = free[-2] in (HALF, TEXTS.index("x</th"), TEXTS.index("<"))
        assert half or trace.thinking_tokens == len(free) - 1
    assert ended > 5


def test_it_is_off_by_default_and_without_markers():
    for seed in SEEDS:
        assert tuple(run(seed=seed, thinking=THINKING)[0]) == account(seed=seed)[0]
        bare = run(seed=seed, thinking=BARE, always_answer=True)
        assert tuple(bare[0]) == account(seed=seed, thinking=BARE)[0] and bare[1].closed_by is None


def test_a_cache_that_forgets_nothing_is_no_obstacle():
    closers = [run(seed=s, thinking=THINKING, always_answer=True, engine=Recurrent())[1].closed_by for s in SEEDS]
    assert closers.count("end") > 5


def test_without_room_the_run_ends_and_says_why():
    noted = 0
    for seed in SEEDS:
        if ended_inside(seed):
            free = account(seed=seed)[0]
            tokens, trace = run(seed=seed, thinking=THINKING, most=len(free), always_answer=True)
            if trace.closed_by is None:
                assert tuple(tokens) == free and "no room for always_answer's" in trace.why
                noted += 1
    assert noted > 3


def test_re_opening_comes_first():
    reopened = 0
    for seed in SEEDS:
        if ended_inside(seed):
            _, trace = run(seed=seed, thinking=THINKING, always_answer=True, continue_times=1)
            reopened += len(trace.reopened)
    assert reopened > 3


def rule_of(calibrated_so):
    rule = Scripted(act=lambda at: at.cue.index == 0, suffix="</think>So ", answer_tokens=200)
    rule.always_answer = calibrated_so
    return rule


def test_a_rule_s_runs_are_as_those_that_it_was_calibrated_on():
    """Without a setting of the user's own; another setting is said to break the promise."""
    for calibrated_so in (False, True):
        for setting in (None, False, True):
            _, trace = run(exit=rule_of(calibrated_so), always_answer=setting)
            assert trace.always_answer == (calibrated_so if setting is None else setting)
            said = any("promise doesn't cover this run" in line for line in trace.warnings)
            assert said == (trace.always_answer != calibrated_so)


def test_a_trial_goes_on_past_an_end_inside_thinking_as_the_exit_does():
    went_on = 0
    for seed in SEEDS:
        rule = rule_of(calibrated_so=True)
        tokens, trace = run(seed=seed, exit=rule, engine=OPENING, most=80)
        if trace.exit is not None:
            start = trace.spans[0].end + trace.spans[0].forced
            assert list(rule.tried[0].tokens) == tokens[start:]
            went_on += any(span.closed_by == "end" for span in trace.spans[1:])
    assert went_on >= 2
