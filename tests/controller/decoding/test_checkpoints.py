"""A state that takes no token back: checkpoints stand before everything that is taken back, and change no result."""

from __future__ import annotations

import pytest

from reasonctl.backends.toy import ToySession
from reasonctl.controller import AnswerNow, Call, Controller, Cues, Keys, PromptLookup, Sampling, Trace
from reasonctl.controller.decoding.close_thinking import ThinkingControl
from support.scripted import RandomTree, Scripted
from support.toy_thinking import ENGINE, EOS, PROMPT, TEXTS, THINKING, TOKENIZER, Checkpointed, run

DRAFTERS = [None, PromptLookup(size=4), RandomTree(len(TEXTS))]
SUFFIX = {"suffix": "</think>So ", "cues": Cues(["wait", "paragraph", "every(7)"])}


def exit_at(cue, answer_tokens=0):
    """A maker of rules that exit at this cue, after a trial where tokens are given for it."""
    return lambda: Scripted(lambda at: at.cue.index == cue, answer_tokens=answer_tokens, **SUFFIX)


CASES = {
    "exit": {"exit": exit_at(0)},
    "later exit": {"exit": exit_at(2)},
    "exit after trials": {"exit": exit_at(1, answer_tokens=6)},
    "shadow with trials": {"exit": exit_at(1, answer_tokens=6), "shadow": True},
    "budget": {"budget": 4, "wrap_up": "Enough. "},
    "longer budget and exit": {"budget": 25, "exit": exit_at(1)},
    "re-opening": {"continue_times": 2},
    "re-opening as a rule says": {"continue_times": 3, "continue_text": " Wait, Wait", "exit": exit_at(1)},
    "least thinking": {"min_thinking": 25},
    "least thinking and exit": {"min_thinking": 9, "exit": exit_at(2)},
    "loops": {"stop_loops": 3},
    "always answer": {"always_answer": True},
}
NEVER_BACK = {"loops", "always answer"}
"""Few of these runs end in half a marker, so none need be taken back."""


def controlled(engine, seed, drafter, settings):
    made = {name: value() if name == "exit" else value for name, value in settings.items()}
    return run(seed=seed, engine=engine, drafter=drafter, thinking=THINKING, **made)


@pytest.mark.parametrize("drafter", DRAFTERS, ids=lambda d: type(d).__name__)
@pytest.mark.parametrize("case", CASES)
def test_a_checkpoint_stands_before_everything_that_is_taken_back(case, drafter):
    engine = Checkpointed()
    for seed in range(14):
        tokens, trace = controlled(engine, seed, drafter, CASES[case])
        expected, whole = controlled(ENGINE, seed, drafter, CASES[case])
        assert (tokens, trace.closed_by, trace.reopened) == (expected, whole.closed_by, whole.reopened)
        assert (trace.trials, trace.trial_tokens) == (whole.trials, whole.trial_tokens)
    assert engine.rollbacks or case in NEVER_BACK


def test_the_answer_may_be_asked_for_at_any_token():
    engine = Checkpointed()

    def asked(model, seed, after):
        trace, now = Trace(), AnswerNow()
        call = Call(list(PROMPT), 60, frozenset([EOS]), Keys(seed=seed), Sampling(), answer_now=now)
        for n, _ in enumerate(Controller(thinking=THINKING).stream(model.session(), TOKENIZER, call, trace)):
            if n == after:
                now.ask()
        return trace.tokens, trace.closed_by

    for seed in range(16):
        for after in (2, 5, 11):
            assert asked(engine, seed, after) == asked(ENGINE, seed, after)
    assert engine.rollbacks


def test_a_session_that_takes_tokens_back_is_asked_for_no_checkpoint(monkeypatch):
    monkeypatch.setattr(ToySession, "checkpoint", lambda session: pytest.fail("asked for a checkpoint"))
    controlled(ENGINE, 0, None, CASES["exit after trials"])


WRONG = {
    "no token is held": lambda control: 0,
    "held tokens are in the cache": lambda control: max(0, control.held() - 1),
}


@pytest.mark.parametrize("error", WRONG)
def test_planted_errors_are_caught(monkeypatch, error):
    monkeypatch.setattr(ThinkingControl, "reach", WRONG[error])
    with pytest.raises(AssertionError, match="rolled back"):
        for case in ("exit", "later exit", "re-opening"):
            test_a_checkpoint_stands_before_everything_that_is_taken_back(case, None)
