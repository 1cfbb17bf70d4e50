"""A run that is asked for its answer closes thinking exactly as a budget of the same length would."""

from __future__ import annotations

import pytest

from reasonctl.backends.toy import ToyEngine, ToyTokenizer
from reasonctl.controller import AnswerNow, Call, Controller, Greedy, Keys, PromptLookup, Sampling, Scheduler, Trace
from support.scripted import RandomTree, Scripted
from support.toy_thinking import BARE, ENGINE, EOS, PROMPT, TEXTS, THINKING, TOKENIZER, account

DRAFTERS = [None, PromptLookup(size=4), RandomTree(len(TEXTS))]


def asked_at(place, *, seed, prompt=PROMPT, most=60, answers=None, **settings):
    """(tokens, trace) of a run that is asked for its answer once, after so many tokens."""
    now, trace, session = AnswerNow(), Trace(), ENGINE.session()
    answers = [] if answers is None else answers
    before = len(answers)

    def stop(tokens, own_from):
        if len(tokens) >= len(prompt) + place and len(answers) == before:
            answers.append(now.ask())
        return False

    call = Call(list(prompt), most, frozenset([EOS]), Keys(seed=seed), Sampling(), stop, answer_now=now)
    events = list(Controller(**settings).stream(session, TOKENIZER, call, trace))
    assert [event.token for event in events] == trace.tokens
    assert session.tokens == (list(prompt) + trace.tokens)[: session.length]
    assert not now.thinking and not now.ask()
    return tuple(trace.tokens), trace


@pytest.mark.parametrize("thinking", [THINKING, BARE], ids=["markers", "none"])
@pytest.mark.parametrize("drafter", DRAFTERS[::2], ids=lambda d: type(d).__name__)
def test_a_request_closes_thinking_as_a_budget_does(drafter, thinking):
    closed = 0
    for seed in range(12):
        for place in range(1, 16):
            tokens, trace = asked_at(place, seed=seed, drafter=drafter, thinking=thinking)
            expected, closer = account(seed=seed, budget=place, thinking=thinking)
            assert tokens == expected
            assert trace.closed_by == ("asked" if closer == "budget" else closer)
            closed += trace.closed_by == "asked"
            assert (trace.why == "answer_now closed thinking") == (trace.closed_by == "asked")
    assert closed > 40


def test_a_request_wins_over_the_least_thinking_and_re_opening():
    for seed in range(20):
        _, trace = asked_at(4, seed=seed, thinking=THINKING, min_thinking=30, continue_times=5)
        assert trace.closed_by in ("asked", "model") and trace.thinking_tokens <= 8


def test_an_end_of_sequence_at_the_request_gives_way_to_the_answer():
    replaced = 0
    for seed in range(200):
        free, _ = account(seed=seed)
        if free[-1] != EOS or "</think>" in TOKENIZER.decode(free) or len(free) > 40:
            continue
        now, trace = AnswerNow(), Trace()
        call = Call(list(PROMPT), 60, frozenset([EOS]), Keys(seed=seed), Sampling(), answer_now=now)
        events = Controller(thinking=THINKING).stream(ENGINE.session(), TOKENIZER, call, trace)
        shown = [next(events).token for _ in range(len(free) - 2)] if len(free) > 2 else []
        if not shown:
            continue
        asked = now.ask()
        shown += [event.token for event in events]
        assert asked and trace.closed_by == "asked" and shown.count(EOS) <= 1
        assert TOKENIZER.decode(shown).count("</think>") == 1
        replaced += 1
    assert replaced >= 3


def test_the_answer_says_whether_a_run_was_thinking():
    answers = []
    for seed in range(20):
        tokens, trace = asked_at(30, seed=seed, thinking=THINKING, answers=answers)
        if len(tokens) >= 31 and trace.closed_by == "model":
            assert answers[-1] is False
    assert False in answers
    assert not AnswerNow().ask()


def test_no_room_is_said_and_nothing_is_forced():
    noted = 0
    for seed in range(20):
        tokens, trace = asked_at(5, seed=seed, most=7, thinking=THINKING)
        noted += "no room for answer_now's" in trace.why
        assert tokens == account(seed=seed, budget=5, most=7)[0]
    assert noted > 5


def test_the_promise_is_said_to_be_made_without():
    warned = 0
    for seed in range(20):
        rule = Scripted(act=lambda at: False, suffix="</think>So ")
        _, trace = asked_at(5, seed=seed, exit=rule)
        if trace.closed_by == "asked":
            warned += 1
            assert any("closed on request" in warning for warning in trace.warnings)
            assert trace.why_not == ["thinking was closed on request"]
            assert trace.why.startswith("answer_now closed thinking; no exit")
    assert warned > 5


class Asking(Greedy):
    """Writes a marker in three tokens, and asks for the answer before the second of them is drawn."""

    def __init__(self, now):
        super().__init__()
        self.now, self.written = now, [1, 1, 2, 3, 4, 1, 0]

    def step(self, state, row):
        place = len(row.tokens) - 2
        if row.phase == "think" and place == 3:
            assert self.now.ask()
        return None, self.written[place] if row.phase == "think" else 0


def test_half_a_marker_is_not_shown_while_somebody_may_ask():
    tokenizer = ToyTokenizer(["<eos>", "a ", "<", "/th", "ink>", "<think>", "</think>", "So "])
    now, trace = AnswerNow(), Trace()
    call = Call([1, 5], 30, frozenset([0]), Keys(seed=0), Greedy(), answer_now=now)
    controller = Controller(policy=Asking(now), thinking=THINKING)
    shown = [e.token for e in controller.stream(ToyEngine(vocabulary=8).session(), tokenizer, call, trace)]
    assert trace.closed_by == "asked" and tokenizer.decode(shown) == "a a </think>So <eos>"


def test_scheduled_runs_are_asked_one_by_one():
    scheduler, asks, traces = Scheduler(), [AnswerNow() for _ in range(3)], [Trace() for _ in range(3)]
    for seed, (now, trace) in enumerate(zip(asks, traces, strict=True)):
        call = Call(list(PROMPT), 60, frozenset([EOS]), Keys(seed=seed), Sampling(), answer_now=now)
        controller = Controller(thinking=THINKING)
        scheduler.add(seed, controller.run(ENGINE, TOKENIZER, call, trace), controller.needs(ENGINE, TOKENIZER, call))
    outputs = iter(scheduler)
    next(outputs)
    assert asks[1].ask()
    list(outputs)
    assert traces[1].closed_by == "asked"
    assert [tuple(traces[n].tokens) for n in (0, 2)] == [account(seed=n)[0] for n in (0, 2)]


def test_a_run_that_is_left_cannot_be_asked():
    now = AnswerNow()
    call = Call(list(PROMPT), 60, frozenset([EOS]), Keys(seed=3), Sampling(), answer_now=now)
    events = Controller(thinking=THINKING).stream(ENGINE.session(), TOKENIZER, call)
    next(events)
    assert now.thinking
    events.close()
    assert not now.ask()
