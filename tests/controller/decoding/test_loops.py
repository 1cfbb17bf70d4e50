"""Thinking that goes round in a loop is closed as a budget closes it, and nothing else is."""

from __future__ import annotations

import random
import time

import numpy as np
import pytest

from reasonctl.backends.toy import ToyEngine
from reasonctl.controller import Call, Controller, ControllerError, Greedy, Keys, PromptLookup, Trace
from reasonctl.controller.thinking.repeats import LONGEST, Repeats
from support.scripted import RandomTree, Scripted
from support.toy_thinking import CLOSE, EOS, HALF, OPEN, REST, TEXTS, THINKING, TOKENIZER

DRAFTERS = [None, PromptLookup(size=4), RandomTree(len(TEXTS))]
WORDS = [TEXTS.index(text) for text in ("a ", "b ", ", ", "So ", " ", "Enough. ", "x")]
ENGINE = ToyEngine(vocabulary=len(TEXTS), order=1)


class Write(Greedy):
    """Writes these tokens, and then ends."""

    def __init__(self, tokens):
        super().__init__()
        self.written = tokens

    def step(self, state, row):
        place = len(row.tokens) - 2
        return None, self.written[place] if place < len(self.written) else EOS


def write(tokens, drafter=None, most=2000, **settings):
    trace, session = Trace(), ENGINE.session()
    call = Call([1, OPEN], most, frozenset([EOS]), Keys(seed=0), Greedy())
    controller = Controller(policy=Write(tokens), thinking=THINKING, drafter=drafter, **settings)
    events = list(controller.stream(session, TOKENIZER, call, trace))
    assert [event.token for event in events] == trace.tokens
    return trace


def noise(n, seed=0):
    return random.Random(seed).choices(WORDS, k=n)


def slow(tokens, times):
    """Length of the shortest span that the text's end repeats; an account by comparing slices."""
    for span in range(20, len(tokens) // times + 1):
        if tokens[-times * span :] == tokens[-span:] * times:
            return span
    return None


@pytest.mark.parametrize("times", [2, 3, 5])
@pytest.mark.parametrize("span", [20, 21, 37, 64, 113, 200])
def test_a_planted_loop_is_closed_at_its_last_token(span, times):
    head, body = noise(50, seed=1), noise(span, seed=2)
    trace = write(head + body * (times + 3), stop_loops=times)
    assert trace.closed_by == "loop" and trace.loop == span and trace.stop_loops == times
    assert len(head) + times * span - 3 <= trace.thinking_tokens <= len(head) + times * span
    assert trace.why == f"thinking repeated a span of {span} tokens {times} times in a row"
    assert TOKENIZER.decode(trace.tokens).count("</think>") == 1
    assert TOKENIZER.decode(trace.tokens[trace.forced[0] :]).startswith(THINKING.suffix)


@pytest.mark.parametrize("drafter", DRAFTERS, ids=lambda d: type(d).__name__)
def test_drafts_and_a_wrap_up_change_nothing_else(drafter):
    body = noise(31, seed=4)
    trace = write(body * 6, drafter, stop_loops=3, wrap_up="Enough. ")
    assert trace.tokens[: 3 * 31] == body * 3 and trace.forced[0] == trace.thinking_tokens == 3 * 31
    assert TOKENIZER.decode(trace.tokens[3 * 31 :]).startswith("Enough. </think>So ")


@pytest.mark.parametrize("span", [1, 2, 7, 19])
def test_a_shorter_span_counts_by_its_copies(span):
    body = noise(span, seed=3) if span > 1 else [1]
    trace = write(body * 200, stop_loops=3)
    assert trace.loop % span == 0 and 20 <= trace.loop < 20 + span
    assert trace.thinking_tokens == 3 * trace.loop


def test_a_counter_that_changes_is_no_loop():
    digits = WORDS[:5]
    body = noise(40, seed=5)
    near = [token for n in range(20) for token in [*body, digits[n % 5], digits[n // 5]]]
    trace = write([*near, CLOSE, 1], stop_loops=3)
    assert trace.closed_by == "model" and trace.loop is None and trace.tokens[: len(near)] == near


def test_one_copy_less_is_no_loop_and_neither_is_the_default():
    body = noise(40, seed=6)
    for settings in ({"stop_loops": 4}, {}):
        trace = write([*body * 3, CLOSE, 1], **settings)
        assert trace.closed_by == "model" and trace.thinking_tokens == 120


def test_only_thoughts_count():
    body = noise(30, seed=7)
    trace = write([1, CLOSE, *body * 5], stop_loops=3)
    assert trace.closed_by == "model" and trace.tokens[2:] == [*body * 5, EOS]


def test_a_close_that_is_taken_back_is_no_part_of_the_loop():
    body = noise(30, seed=8)
    # The forced "Wait" breaks the first loop: three copies after it are needed.
    trace = write([*body * 2, CLOSE, *body * 6], stop_loops=3, continue_times=1)
    assert trace.reopened == [60] and trace.closed_by == "loop" and trace.loop == 30
    tokens = trace.tokens[: trace.forced[0]]
    assert slow(tokens, 3) == 30 and all(slow(tokens[:n], 3) is None for n in range(61, len(tokens)))


def test_with_an_exit_rule_the_loop_is_said_first():
    rule = Scripted(act=lambda at: False, suffix="</think>So ")
    trace = Trace()
    call = Call([1, OPEN], 500, frozenset([EOS]), Keys(seed=0), Greedy())
    controller = Controller(exit=rule, policy=Write(noise(30) * 5), stop_loops=3)
    list(controller.stream(ENGINE.session(), TOKENIZER, call, trace))
    assert trace.why.startswith("thinking repeated a span of 30 tokens 3 times in a row; no exit")


def test_following_equals_comparing_slices():
    chance = random.Random(9)
    for _ in range(30):
        times = chance.choice([2, 3])
        body = chance.choices(range(3), k=chance.randint(1, 45))
        text = chance.choices(range(3), k=30) + body * 4 + chance.choices(range(3), k=20) + body * 4
        repeats = Repeats(times, begin=0)
        for n in range(1, len(text) + 1):
            assert repeats.follow(text[:n]) == slow(text[:n], times)
            if chance.random() < 0.1:  # taken back, and written again
                back = chance.randint(0, n)
                repeats = repeats.rewound(text[:back])
                assert repeats.follow(text[:n]) == slow(text[:n], times)


def test_time_is_linear_and_memory_bounded():
    repeats, text, seconds = Repeats(3, begin=0), [], []
    for _ in range(10):
        begin = time.process_time()
        for token in noise(2000, seed=10):
            text.append(token)
            repeats.follow(text)
        seconds.append(time.process_time() - begin)
    assert min(seconds[5:]) < 3 * min(seconds[:5])
    arrays = [value for value in vars(repeats).values() if isinstance(value, np.ndarray)]
    assert len(arrays) > 2 and sum(array.nbytes for array in arrays) < 40 * LONGEST


@pytest.mark.parametrize("value", [0, 1, -2, 2.5, True])
def test_impossible_numbers_are_refused(value):
    with pytest.raises(ControllerError, match="stop_loops is .*; it must be a whole number of times, at least 2"):
        Controller(thinking=THINKING, stop_loops=value)


def test_the_text_that_replaces_a_close_is_a_part_of_the_loop():
    # It ends in a space, so that "Wait" follows as it is. Its first token is the second half of a marker.
    body = [REST, *noise(30, seed=8), 1]
    word = TEXTS.index("Wait")
    trace = write([*body, word, *body, HALF, *body, word, *body], stop_loops=3, continue_times=1)
    assert trace.reopened == [65] and trace.closed_by == "loop" and trace.loop == 33
    assert trace.tokens[: trace.forced[0]] == [*body, word] * 3
