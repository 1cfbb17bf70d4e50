"""Several thinking spans in a run: one budget over all of them or one for each, and every span is closed once."""

from __future__ import annotations

import pytest

from reasonctl.controller import Call, Controller, ControllerError, Keys, PromptLookup, Sampling, Scheduler, Trace, Turn
from support.scripted import RandomTree, Scripted
from support.toy_thinking import ENGINE, EOS, OPENING, PROMPT, TEXTS, THINKING, TOKENIZER, account, run

DRAFTERS = [None, PromptLookup(size=4), RandomTree(len(TEXTS))]


def several(**settings):
    """(tokens, trace) of the runs of a model that opens thinking in its answer too."""
    return [run(seed=seed, engine=OPENING, thinking=THINKING, most=80, **settings) for seed in range(25)]


@pytest.mark.parametrize("per", ["run", "span"])
@pytest.mark.parametrize("drafter", DRAFTERS, ids=lambda d: type(d).__name__)
@pytest.mark.parametrize("budget", [0, 3, 9])
def test_the_budget_holds_over_all_spans_or_for_each(budget, drafter, per):
    again = closed = 0
    for seed, (tokens, trace) in enumerate(several(budget=budget, budget_per=per, drafter=drafter)):
        expected = account(seed=seed, budget=budget, thinking=THINKING, budget_per=per, most=80, engine=OPENING)
        assert (tuple(tokens), trace.closed_by) == expected
        spans = [span.tokens for span in trace.spans]
        assert trace.thinking_tokens == sum(spans)
        room = [span for span in trace.spans if span.closed_by is not None]
        used = sum(span.tokens for span in room) if per == "run" else max([span.tokens for span in room], default=0)
        assert used <= budget
        again += len(spans) > 1
        closed += len(spans) > 1 and trace.spans[-1].closed_by == "budget"
        for span in trace.spans:
            forced = TOKENIZER.decode(tokens[span.end : span.end + span.forced])
            assert not span.forced or forced.endswith(THINKING.suffix)
    assert again >= 5 and closed >= 3


def test_the_trace_says_what_became_of_every_span():
    _, trace = next((tokens, trace) for tokens, trace in several(budget=3) if len(trace.spans) > 2)
    assert trace.why == f"budget of 3 thinking tokens used up; {len(trace.spans)} spans"
    written = trace.to_dict()
    assert written["spans"][0].keys() == {"start", "end", "closed_by", "forced"}
    assert written["closed_by"] == trace.closed_by and written["thinking"] == list(trace.thinking)
    _, trace = next((tokens, trace) for tokens, trace in several(budget=3, budget_per="span") if len(trace.spans) > 2)
    assert trace.why.startswith("budget of 3 thinking tokens a span used up")


def exits_at(n, **changes):
    return Scripted(act=lambda at: at.cue.index == n, suffix="</think>So ", **changes)


def spans_of_cues(rule, trace):
    """For every cue at which the rule was asked, the number of its span."""
    places = [at.cue.first - at.prompt for at in rule.seen]
    return [sum(span.start <= place for span in trace.spans) for place in places]


def test_a_rule_is_asked_in_the_first_span_or_in_all_up_to_its_first_exit():
    later = 0
    for seed in range(30):
        rule, every = exits_at(10**6), exits_at(10**6)
        every.later_spans = True
        tokens, trace = run(seed=seed, engine=OPENING, exit=rule, most=80)
        free, all_spans = run(seed=seed, engine=OPENING, exit=every, most=80)
        assert tokens == free  # nothing is done: the run is the model's own
        assert set(spans_of_cues(rule, trace)) <= {1}
        later += max(spans_of_cues(every, all_spans), default=1) > 1
        assert [at.cue.first for at in rule.seen] == [at.cue.first for at in every.seen][: len(rule.seen)]
    assert later >= 5


def test_no_exit_follows_the_first_one():
    exits = 0
    for seed in range(40):
        rule = Scripted(act=lambda at: True, suffix="</think>So ")
        rule.later_spans = True
        _, trace = run(seed=seed, engine=OPENING, exit=rule, most=80)
        if trace.exit is None:
            continue
        assert len(rule.seen) == 1 and [span.closed_by for span in trace.spans].count("exit") == 1
        assert trace.why.startswith("exited at cue 1")
        exits += len(trace.spans) > 1
    assert exits >= 5


def test_a_trial_goes_on_as_the_exit_does_through_a_span_that_opens_again():
    same = 0
    for seed in range(40):
        rule = exits_at(0, answer_tokens=200)
        tokens, trace = run(seed=seed, engine=OPENING, exit=rule, most=80)
        if trace.exit is None:
            continue
        start, length = next((span.end, span.forced) for span in trace.spans if span.forced)
        assert list(rule.tried[0].tokens) == tokens[start + length :]
        same += len(trace.spans) > 1
    assert same >= 5


def call_of(turn, seed=0):
    return Call(list(PROMPT), 60, frozenset([EOS]), Keys(seed=seed), Sampling(), turn=turn)


def test_the_budget_goes_on_over_the_calls_of_a_turn_and_no_other():
    goes_on = 0
    for seed in range(20):
        turn, spent = Turn(), 0
        for number in range(4):
            trace = Trace()
            controller = Controller(thinking=THINKING, budget=9)
            list(controller.stream(ENGINE.session(), TOKENIZER, call_of(turn, seed + number), trace))
            same = account(seed=seed + number, budget=9 - spent)
            assert (tuple(trace.tokens), trace.closed_by) == same and trace.spent_before == spent
            spent += trace.thinking_tokens
            assert turn.thinking_tokens == spent <= 9
            goes_on += 0 < trace.spent_before < 9
            list(controller.stream(ENGINE.session(), TOKENIZER, call_of(None, seed), trace := Trace()))
            assert tuple(trace.tokens) == account(seed=seed, budget=9)[0] and trace.spent_before == 0
    assert goes_on >= 10


def test_a_run_that_is_left_counts_what_it_thought_and_one_that_fails_nothing():
    turn, session = Turn(), ENGINE.session()
    events = Controller(thinking=THINKING).stream(session, TOKENIZER, call_of(turn, seed=3))
    for _ in range(4):
        next(events)
    events.close()
    assert turn.thinking_tokens >= 4
    before, session = turn.thinking_tokens, ENGINE.session()
    session.feed = lambda *_: (_ for _ in ()).throw(RuntimeError("broken"))
    with pytest.raises(RuntimeError, match="broken"):
        list(Controller(thinking=THINKING, budget=20).stream(session, TOKENIZER, call_of(turn, seed=3)))
    assert turn.thinking_tokens == before


def test_impossible_settings_are_refused():
    with pytest.raises(ControllerError, match="budget_per is 'call'; it must be 'run' or 'span'"):
        Controller(thinking=THINKING, budget=4, budget_per="call")
    with pytest.raises(ControllerError, match="a turn shares one budget"):
        list(Controller(thinking=THINKING, budget_per="span").stream(ENGINE.session(), TOKENIZER, call_of(Turn())))


def test_scheduled_runs_have_spans_of_their_own():
    scheduler, traces = Scheduler(), [Trace() for _ in range(4)]
    controller = Controller(thinking=THINKING, budget=6)
    for seed, trace in enumerate(traces):
        call = Call(list(PROMPT), 80, frozenset([EOS]), Keys(seed=seed), Sampling())
        scheduler.add(seed, controller.run(OPENING, TOKENIZER, call, trace), controller.needs(OPENING, TOKENIZER, call))
    list(scheduler)
    for seed, trace in enumerate(traces):
        alone = run(seed=seed, engine=OPENING, thinking=THINKING, most=80, budget=6)[1]
        assert trace.tokens == alone.tokens and trace.spans == alone.spans
