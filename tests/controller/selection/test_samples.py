"""Samples of one prompt: each is the run that it would be alone, in their order, from one prefill."""

from __future__ import annotations

import pytest

from reasonctl.backends.toy import ToyEngine, ToyTokenizer
from reasonctl.controller import Call, Controller, ControllerError, Keys, PromptLookup, Trace, Turn, parse_policy
from reasonctl.controller.selection import ArithmeticCode, arithmetic_codes

TOKENIZER = ToyTokenizer(["a", "b", "c", "."])
PROMPT = [0, 1, 2, 0, 1]


def call(**changes) -> Call:
    settings = {
        "prompt": PROMPT,
        "max_new_tokens": 12,
        "eos": frozenset({3}),
        "keys": Keys(seed=5, run=7),
        "policy": parse_policy("temperature(1.1)"),
    }
    return Call(**(settings | changes))


def alone(engine: ToyEngine, run: int, policy=None, **controls) -> list[int]:
    trace = Trace()
    one = call(keys=Keys(seed=5, run=run), **({} if policy is None else {"policy": policy}))
    list(Controller(**controls).stream(engine.session(), TOKENIZER, one, trace))
    return trace.tokens


@pytest.mark.parametrize("at_once", [None, 1, 3])
@pytest.mark.parametrize("drafter", [None, PromptLookup()])
def test_a_sample_is_the_run_alone(at_once: int | None, drafter) -> None:
    engine = ToyEngine(vocabulary=4, seed=2)
    traces = list(Controller(drafter=drafter).samples(engine, TOKENIZER, call(), 8, at_once=at_once))
    assert [trace.tokens for trace in traces] == [alone(engine, 7 + i) for i in range(8)]
    assert [trace.repeat for trace in traces] == [False] + [True] * 7
    assert len({tuple(trace.tokens) for trace in traces}) > 3


@pytest.mark.parametrize("at_once", [None, 2])
def test_coded_samples_are_the_coded_runs_alone(at_once: int | None) -> None:
    engine = ToyEngine(vocabulary=4, seed=2)
    traces = list(Controller(codes="arithmetic").samples(engine, TOKENIZER, call(), 6, at_once=at_once))
    codes = arithmetic_codes(6, Keys(seed=5, run=7))
    expected = [alone(engine, 7 + i, ArithmeticCode(call().policy, code)) for i, code in enumerate(codes)]
    assert [trace.tokens for trace in traces] == expected
    assert [trace.tokens for trace in traces] != [alone(engine, 7 + i) for i in range(6)]


def test_the_prompt_is_prefilled_once_and_forwards_are_shared() -> None:
    fed: list[int] = []

    class Counting(ToyEngine):
        def forward(self, requests):
            fed.append(sum(len(request.pending) for request in requests))
            return super().forward(requests)

    engine = Counting(vocabulary=4, seed=2)
    traces = list(Controller().samples(engine, TOKENIZER, call(), 8))
    longest = max(len(trace.tokens) for trace in traces)
    assert len(fed) == 1 + longest and fed[0] == len(PROMPT) - 1
    assert sum(fed) == len(PROMPT) - 1 + sum(len(trace.tokens) for trace in traces)


def test_who_stops_reading_stops_the_rest() -> None:
    engine = ToyEngine(vocabulary=4, seed=2)
    samples = Controller().samples(engine, TOKENIZER, call(), 100, at_once=2)
    first = [next(samples), next(samples)]
    forwards = engine.forwards
    samples.close()
    assert [trace.tokens for trace in first] == [alone(ToyEngine(vocabulary=4, seed=2), 7 + i) for i in range(2)]
    assert engine.forwards == forwards and not [session for session in engine.open if session.length]


def test_stopped_samples_are_counted() -> None:
    engine = ToyEngine(vocabulary=4, seed=2)
    samples = Controller().samples(engine, TOKENIZER, call(max_new_tokens=60), 6)
    first = next(samples)
    samples.close()
    others = samples.traces[1:]
    assert samples.cost == len(first.tokens) + sum(trace.cost for trace in others) and any(t.cost for t in others)


def test_they_come_in_their_order() -> None:
    """A short sample that ends before the one before it waits."""
    engine = ToyEngine(vocabulary=4, seed=2)
    traces = list(Controller().samples(engine, TOKENIZER, call(max_new_tokens=60), 12))
    lengths = [len(trace.tokens) for trace in traces]
    assert [trace.run for trace in traces] == list(range(7, 19)) and lengths != sorted(lengths)


def test_a_small_room_makes_them_wait() -> None:
    """Room for the shared prompt and two samples: the others start when one has ended."""
    engine = ToyEngine(vocabulary=4, seed=2, room=4 + 2 * 13, most_sessions=3)
    traces = list(Controller().samples(engine, TOKENIZER, call(), 9))
    assert [trace.tokens for trace in traces] == [alone(ToyEngine(vocabulary=4, seed=2), 7 + i) for i in range(9)]
    with pytest.raises(ControllerError, match="there is room for 16"):
        list(Controller().samples(ToyEngine(vocabulary=4, room=16), TOKENIZER, call(), 2))


def test_a_sample_that_fails_fails_the_call() -> None:
    class Broken(ToyEngine):
        def forward(self, requests):
            if self.forwards > 1:
                raise ControllerError("the device is gone")
            return super().forward(requests)

    engine = Broken(vocabulary=4, seed=2)
    with pytest.raises(ControllerError, match="the device is gone"):
        list(Controller().samples(engine, TOKENIZER, call(), 3))
    assert not [session for session in engine.open if session.length]


def test_a_turn_is_refused() -> None:
    with pytest.raises(ControllerError, match="a turn is one run's"):
        Controller().samples(ToyEngine(vocabulary=4), TOKENIZER, call(turn=Turn()), 2)


@pytest.mark.parametrize(
    ("n", "changes", "message"),
    [
        (0, {}, "between 1 and 4096"),
        (5000, {}, "between 1 and 4096"),
        (2.5, {}, "between 1 and 4096"),
        (2, {"at_once": 0}, "at least 1 sample runs"),
    ],
)
def test_impossible_requests_are_refused(n, changes, message: str) -> None:
    with pytest.raises(ControllerError, match=message):
        list(Controller().samples(ToyEngine(vocabulary=4), TOKENIZER, call(), n, **changes))
