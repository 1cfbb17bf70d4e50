"""A warning before the budget's end is fed once, where it is due, and the budget holds all the same."""

from __future__ import annotations

import pytest

from reasonctl.controller import (
    Call,
    Controller,
    ControllerError,
    Keys,
    PromptLookup,
    Sampling,
    Scheduler,
    Trace,
    Turn,
)
from support.scripted import RandomTree
from support.toy_thinking import BARE, ENGINE, EOS, OPENING, PROMPT, TEXTS, THINKING, TOKENIZER, Recurrent, account, run

DRAFTERS = [None, PromptLookup(size=4), RandomTree(len(TEXTS))]
WARNING = "So a "
WARNED = {"warn_before": 7, "warning": WARNING}


def warned_text(trace, place):
    length = len(TOKENIZER.encode(WARNING))
    return TOKENIZER.decode(trace.tokens[place : place + length])


@pytest.mark.parametrize("engine", [ENGINE, OPENING], ids=["one span", "several"])
@pytest.mark.parametrize("per", ["run", "span"])
@pytest.mark.parametrize(
    "drafter",
    [pytest.param(one, marks=[pytest.mark.slow] if isinstance(one, PromptLookup) else []) for one in DRAFTERS],
    ids=lambda d: type(d).__name__,
)
def test_it_is_fed_once_where_it_is_due(drafter, per, engine):
    warned = late = 0
    for seed in range(40):
        for budget in (9, 12, 20):
            settings = {"budget": budget, "budget_per": per, **WARNED}
            tokens, trace = run(seed=seed, drafter=drafter, thinking=THINKING, engine=engine, **settings)
            assert (tuple(tokens), trace.closed_by) == account(seed=seed, engine=engine, **settings)
            assert len(trace.warned) <= (1 if per == "run" else len(trace.spans))
            for place in trace.warned:
                assert warned_text(trace, place) == WARNING
                late += trace.spans[0].start + budget - 7 < place < trace.spans[0].end
            warned += bool(trace.warned)
            assert ("warned at token" in trace.why) == bool(trace.warned)
            last = trace.spans[-1]
            assert last.closed_by != "budget" or per == "span" or trace.thinking_tokens <= budget
    assert warned > 25 and late > 2  # a half-written marker is finished or given up first


def test_without_markers_and_on_a_cache_that_forgets_nothing():
    for seed in range(8):
        settings = {"budget": 15, **WARNED}
        plain = run(seed=seed, thinking=THINKING, **settings)[1]
        kept = run(seed=seed, thinking=THINKING, engine=Recurrent(), **settings)[1]
        assert kept.warned == plain.warned
        trace = run(seed=seed, thinking=BARE, **settings)[1]
        assert trace.warned in ([8], []) and (trace.warned or len(trace.tokens) <= 15)


def test_runs_that_share_forwards_are_the_runs_alone():
    scheduler, traces, controller = (
        Scheduler(),
        [Trace() for _ in range(8)],
        Controller(thinking=THINKING, budget=15, **WARNED),
    )
    for seed, trace in enumerate(traces):
        call = Call(list(PROMPT), 60, frozenset([EOS]), Keys(seed=seed), Sampling())
        scheduler.add(seed, controller.run(ENGINE, TOKENIZER, call, trace))
    list(scheduler)
    for seed, trace in enumerate(traces):
        alone = run(seed=seed, thinking=THINKING, budget=15, **WARNED)[1]
        assert (trace.tokens, trace.warned) == (alone.tokens, alone.warned)
    assert sum(bool(trace.warned) for trace in traces) > 3


def test_it_is_off_unless_asked_for_and_left_out_where_it_has_no_place():
    for seed in range(5):
        off = run(seed=seed, thinking=THINKING, budget=12)[0]
        for settings in ({"warn_before": 12}, {"warn_before": 20}):  # the budget is no longer than that
            tokens, trace = run(seed=seed, thinking=THINKING, budget=12, **settings)
            assert tokens == off and not trace.warned
        tokens, trace = run(seed=seed, thinking=THINKING, budget=12, warn_before=2, warning=WARNING)
        assert tokens == off and not trace.warned
        if trace.thinking_tokens >= 10:
            assert trace.warnings == ["no room for the warning's 2 tokens: warn_before is too small"]


def test_a_turn_is_warned_once():
    turn, found = Turn(), []
    for seed in range(12):
        trace, session = Trace(), ENGINE.session()
        call = Call(list(PROMPT), 60, frozenset([EOS]), Keys(seed=seed), Sampling(), turn=turn)
        list(Controller(thinking=THINKING, budget=40, **WARNED).stream(session, TOKENIZER, call, trace))
        found += [trace.spent_before + trace.warned[0]] if trace.warned else []
    assert len(found) == 1 and 33 <= found[0] < 40


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"warn_before": 9}, "warn_before is 9 and there is no budget"),
        (
            {"warn_before": 0, "budget": 20},
            "warn_before is 0; it must be a whole number of thinking tokens, at least 1",
        ),
        ({"warn_before": 9, "budget": 20, "warning": " "}, "warning is empty"),
        ({"warn_before": 9, "budget": 20, "warning": "ok</think>"}, "warning 'ok</think>' holds the marker"),
    ],
)
def test_mistakes(settings, message):
    with pytest.raises(ControllerError, match=message):
        Controller(thinking=THINKING, **settings)
