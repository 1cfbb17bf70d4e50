"""Limits as people think of them: a share of the room, seconds, and names for how much to think."""

from __future__ import annotations

import pytest

from reasonctl.controller import Call, Controller, ControllerError, Effort, Keys, PromptLookup, Sampling, Trace
from support.scripted import RandomTree, Scripted
from support.toy_thinking import BARE, ENGINE, EOS, OPENING, PROMPT, TEXTS, THINKING, TOKENIZER, account, run

DRAFTERS = [None, PromptLookup(size=4), RandomTree(len(TEXTS))]


@pytest.mark.parametrize("thinking", [THINKING, BARE], ids=["markers", "none"])
def test_a_share_is_so_many_of_the_runs_tokens(thinking):
    closed = 0
    for seed in range(20):
        tokens, trace = run(seed=seed, budget=0.1, most=64, thinking=thinking)
        assert (tuple(tokens), trace.closed_by) == account(seed=seed, budget=6, most=64, thinking=thinking)
        assert trace.budget == 6
        closed += trace.closed_by == "budget"
    assert closed >= 5
    assert run(budget=0.0, thinking=THINKING)[1].budget == 0
    assert run(budget=1.0, thinking=THINKING)[1].budget == 60


def timed(seconds, *, seed, each=0.5, engine=ENGINE, **settings):
    """A run whose clock goes on by `each` seconds whenever it is asked; its first answer is no zero."""
    ticks, trace, session = iter(range(10**6)), Trace(), engine.session()
    call = Call(list(PROMPT), 60, frozenset([EOS]), Keys(seed=seed), Sampling(), now=lambda: 100 + each * next(ticks))
    controller = Controller(thinking_seconds=seconds, thinking=THINKING, **settings)
    events = [event.token for event in controller.stream(session, TOKENIZER, call, trace)]
    assert events == trace.tokens
    return tuple(trace.tokens), trace


@pytest.mark.parametrize("drafter", DRAFTERS, ids=lambda d: type(d).__name__)
def test_seconds_close_thinking_as_a_budget_does(drafter):
    """The clock is asked once a thinking token, so that a token is half a second."""
    closed = 0
    for seed in range(30):
        tokens, trace = timed(3.5, seed=seed, drafter=drafter)
        assert trace.closed_by in ("time", "model", None) and trace.seconds == 3.5
        if trace.closed_by == "time":
            # Seven half seconds after the first token; the model's own half of a marker may be taken back then.
            assert tokens == account(seed=seed, budget=8)[0]
            assert trace.why == "3.5 seconds of thinking used up"
            closed += 1
    assert closed >= 8


def test_no_seconds_close_thinking_at_its_first_token_and_time_that_is_left_changes_nothing():
    for seed in range(20):
        tokens, trace = timed(0, seed=seed)
        assert tokens == account(seed=seed, budget=1)[0]
        assert timed(1000, seed=seed)[0] == account(seed=seed)[0]


def test_seconds_count_over_all_spans_or_for_each():
    both = 0
    for seed in range(30):
        _, run_trace = timed(4, seed=seed, engine=OPENING)
        _, span_trace = timed(4, seed=seed, engine=OPENING, budget_per="span")
        for trace, longest in ((run_trace, run_trace.thinking_tokens), (span_trace, None)):
            longest = max((span.tokens for span in trace.spans), default=0) if longest is None else longest
            assert longest <= 9 + len(trace.spans)  # each span has a token before its clock is first asked
        both += len(span_trace.spans) > 1 and span_trace.thinking_tokens > 12
    assert both >= 5


def test_time_that_is_up_wins_over_re_opening():
    for seed in range(20):
        _, trace = timed(2, seed=seed, min_thinking=30, continue_times=9)
        assert trace.thinking_tokens <= 8 and trace.closed_by in ("time", "model")


EFFORTS = {"low": 3, "medium": 0.25, "short": Effort(thinking_seconds=2), "safe": Effort(risk=0.02), "none": 1}


class Promised(Scripted):
    """A rule with a risk and names for risks."""

    efforts = {"low": Effort(risk=0.2), "high": Effort(risk=0.01), "short": 6}

    def at(self, *, risk):
        made = Promised(act=self.act)
        made.risk = risk
        return made


def test_names_stand_for_budgets_times_and_risks():
    base = Controller(thinking=THINKING, efforts=EFFORTS)
    assert base.under(effort="low").budget == 3 and base.under(effort="medium").budget == 0.25
    assert base.under(effort="short").thinking_seconds == 2 and base.budget is None
    assert Controller(thinking=THINKING, efforts=EFFORTS, effort="low").budget == 3
    assert base.under(effort="none").budget == 1 and Controller(thinking=THINKING).under(effort="none").budget == 0
    rule = Promised(act=lambda at: False)
    ruled = Controller(exit=rule, efforts={"safe": Effort(risk=0.02, budget=9)})
    assert ruled.under(effort="high").exit.risk == 0.01 and ruled.under(effort="high").budget is None
    assert ruled.under(effort="safe").exit.risk == 0.02 and ruled.under(effort="safe").budget == 9
    assert Controller(exit=rule, effort="low").exit.risk == 0.2
    assert ruled.under(effort="short").budget == 6 and ruled.under(effort="none").budget == 0
    # The user's own names come first, and what is given next to a name wins.
    assert Controller(exit=rule, efforts={"low": 4}).under(effort="low").budget == 4
    assert base.under(effort="low", thinking_budget=8).budget == 8
    # A call that says nothing keeps the effort that the controller began with.
    assert Controller(thinking=THINKING, efforts=EFFORTS, effort="low").under(min_thinking=1).budget == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"budget": 1.5}, r"budget is 1.5; it must be .* or a share of the run's tokens from 0.0 to 1.0"),
        ({"budget": float("nan")}, "budget is nan; it must be"),
        ({"budget": "30s"}, "budget is '30s'; it must be a whole number"),
        ({"thinking_seconds": -1}, "thinking_seconds is -1; it must be a number of seconds"),
        ({"thinking_seconds": float("inf")}, "thinking_seconds is inf"),
        ({"thinking_seconds": True}, "thinking_seconds is True"),
        ({"effort": "huge"}, "effort is 'huge', and the names that are defined are 'none'; give one"),
        ({"effort": "low", "efforts": {"low": 3}, "budget": 4}, "effort 'low' sets budget, which was given too"),
        ({"effort": "low", "efforts": {"low": Effort(risk=0.1)}}, "no exit rule to hold it"),
        ({"effort": "low", "efforts": {"low": -3}}, "budget is -3"),
    ],
)
def test_impossible_limits_are_refused(settings, message):
    with pytest.raises(ControllerError, match=message) as caught:
        Controller(thinking=THINKING, **settings)
    assert "\n" not in str(caught.value)


def test_a_share_below_the_least_thinking_is_refused_when_the_run_begins():
    with pytest.raises(ControllerError, match="min_thinking is 10, above the budget of 6"):
        run(budget=0.1, most=60, min_thinking=10, thinking=THINKING)
    with pytest.raises(ControllerError, match="an effort sets nothing"):
        Effort()
