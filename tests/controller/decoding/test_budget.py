"""A budget of thinking tokens: wrap-up and closing suffix are read by the model, once, and nothing of it leaks."""

from __future__ import annotations

import pytest

from reasonctl.backends.toy import ToyEngine
from reasonctl.controller import Controller, ControllerError, Greedy, Markers, PromptLookup, Span, Thinking
from reasonctl.controller.decoding.close_thinking import ThinkingControl
from reasonctl.controller.decoding.loop import Loop
from support.scripted import RandomTree, Scripted
from support.toy_thinking import (
    BARE,
    CLOSE,
    ENGINE,
    EOS,
    OPEN,
    OPENING,
    PROMPT,
    TEXTS,
    THINKING,
    TOKENIZER,
    Recurrent,
    account,
    run,
)

DRAFTERS = [None, PromptLookup(size=4), RandomTree(len(TEXTS))]
BUDGETS = [(0, ""), (1, "Enough. "), (4, ""), (9, "\n\nEnough. "), (25, "Enough. ")]


def answer_of(trace):
    start, length = trace.forced
    return TOKENIZER.decode([token for token in trace.tokens[start + length :] if token != EOS])


def check(seeds, budget, wrap_up, drafter=None, prompt=PROMPT, thinking=THINKING, most=60):
    """Number of runs that the budget ended, and of second closes that the model wrote."""
    ended = repeated = 0
    for seed in range(seeds):
        settings = {"budget": budget, "wrap_up": wrap_up, "thinking": thinking}
        tokens, trace = run(seed=seed, drafter=drafter, prompt=prompt, most=most, **settings)
        expected, closer = account(seed=seed, prompt=prompt, most=most, **settings)
        assert (tuple(tokens), trace.closed_by) == (expected, closer)
        assert trace.thinking_tokens <= budget
        if closer != "budget":
            continue
        ended, repeated = ended + 1, repeated + trace.repeated
        start, length = trace.forced
        forced = TOKENIZER.decode(tokens[start : start + length])
        assert forced.endswith(wrap_up + thinking.suffix)
        if thinking.markers:
            assert TOKENIZER.decode(tokens[trace.thinking[0] :]).count("</think>") == 1
        assert not wrap_up or wrap_up not in answer_of(trace)
        assert trace.cost >= len(tokens) and trace.why == f"budget of {budget} thinking tokens used up"
    return ended, repeated


# The toy may write "Enough. " in its answer by itself, which is no leak: those seeds would fail, and none does here.
@pytest.mark.parametrize("drafter", DRAFTERS, ids=lambda d: type(d).__name__)
@pytest.mark.parametrize(("budget", "wrap_up"), BUDGETS)
def test_the_budget_ends_thinking_as_if_the_model_had_been_prompted_so(budget, wrap_up, drafter):
    wrap_up = wrap_up.replace("Enough. ", "Enough. a b a b ") if wrap_up else wrap_up
    assert check(12, budget, wrap_up, drafter)[0] >= (2 if budget > 9 else 6)


def test_a_close_that_the_model_repeats_in_its_answer_never_stays():
    assert check(30, 2, "")[1] > 10


def test_the_model_opens_the_span_itself():
    opened = 0
    for seed in range(60):
        settings = {"seed": seed, "prompt": (OPEN - 1, 1, 2), "budget": 5, "thinking": THINKING, "engine": OPENING}
        tokens, trace = run(**settings)
        assert (tuple(tokens), trace.closed_by) == account(**settings)
        opened += trace.closed_by == "budget" and len(trace.spans) == 1
    assert opened >= 3


def test_a_model_without_markers():
    assert check(20, 6, "Enough. a b a b ", thinking=BARE)[0] >= 10


def test_a_budget_that_does_not_fit_is_not_forced():
    for most in range(1, 14):
        tokens, trace = run(seed=1, budget=6, wrap_up="a b ", thinking=THINKING, most=most)
        assert tokens == list(account(seed=1, budget=6, wrap_up="a b ", thinking=THINKING, most=most)[0])
        assert (trace.closed_by == "budget") != ("no room" in trace.why) or len(tokens) <= 6


class Recorder(ToyEngine):
    """Notes what every forward fed."""

    def __init__(self):
        self.__dict__.update(ENGINE.__dict__)
        self.fed = []

    def forward(self, requests):
        self.fed += [list(request.pending) for request in requests]
        return super().forward(requests)


def test_the_model_reads_the_forced_tokens_in_one_forward_and_the_prefix_never_again():
    seed = next(seed for seed in range(40) if account(seed=seed, budget=9, wrap_up="Enough. a ")[1] == "budget")
    for drafter in DRAFTERS:
        engine = Recorder()
        tokens, trace = run(
            seed=seed, budget=9, wrap_up="Enough. a ", thinking=THINKING, engine=engine, drafter=drafter
        )
        start, length = trace.forced
        forced = tokens[start : start + length]
        holding = [pending for pending in engine.fed if pending[-length:] == forced]
        assert len(holding) == 1 and len(holding[0]) <= length + 1
        assert TOKENIZER.decode(forced) == "Enough. a </think>So "


def test_with_an_exit_rule_whatever_comes_first_ends_thinking():
    closers = set()
    for seed in range(40):
        rule = Scripted(act=lambda at: at.cue.index == 2, suffix="</think>So ")
        exited, by_rule = run(seed=seed, exit=rule)
        tokens, trace = run(seed=seed, exit=rule, budget=8)
        closers.add(trace.closed_by)
        if by_rule.exit and by_rule.exit.position < 7:
            assert tokens == exited and trace.exit == by_rule.exit
        elif trace.closed_by == "budget":
            assert tuple(tokens) == account(seed=seed, budget=8)[0] and trace.why.startswith("budget of 8")
            assert trace.exit is None
    assert closers >= {"exit", "budget"}


class Bytes:
    """Tokens 0..255 are bytes; 256 closes thinking."""

    def text(self, token):
        return self.decode([token])

    def decode(self, tokens):
        return b"".join(map(self.bytes_of, tokens)).decode("utf-8", errors="replace")

    def bytes_of(self, token):
        return b"</think>" if token == 256 else bytes([token])

    def encode(self, text):
        return [256] if text == "</think>" else list(text.encode())


@pytest.mark.parametrize(
    ("budget", "thought"), [(1, "a"), (2, "aé"), (3, "aé"), (4, "aé語"), (6, "aé語"), (7, "aé語x")]
)
def test_a_character_is_finished_first(budget, thought):
    class Write(Greedy):
        def step(self, state, row):
            return None, (b"a\xc3\xa9\xe8\xaa\x9ex" + b"z" * 100)[len(row.tokens) - 1]

    engine = ToyEngine(vocabulary=257, order=1)
    thinking = Thinking(Markers("<", "</think>"), "</think>")
    tokens, trace = run(
        prompt=[ord("<")], budget=budget, thinking=thinking, policy=Write(), engine=engine, tokenizer=Bytes(), eos=()
    )
    assert Bytes().decode(tokens[: trace.forced[0]]) == thought


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"budget": -1}, "budget is -1; it must be a whole number"),
        ({"budget": 2.5}, "budget is 2.5; it must be a whole number"),
        ({"budget": True}, "budget is True"),
        ({"min_thinking": -3}, "min_thinking is -3"),
        ({"continue_times": -1}, "continue_times is -1"),
        ({"budget": 5, "min_thinking": 6}, "min_thinking is 6, above the budget of 5"),
        ({"wrap_up": "Enough."}, "there is no budget; give one"),
        ({"budget": 5, "wrap_up": "x</think>"}, "holds the marker '</think>'"),
        ({"budget": 5, "wrap_up": "x<think>"}, "holds the marker '<think>'"),
        ({"continue_times": 1, "continue_text": "</think>"}, "holds the marker"),
        ({"continue_times": 1, "continue_text": " "}, "continue_text is empty"),
        ({"shadow": True}, "shadow mode watches an exit rule"),
    ],
)
def test_impossible_limits_are_refused_in_one_line(settings, message):
    with pytest.raises(ControllerError, match=message) as caught:
        Controller(thinking=THINKING, **settings)
    assert "\n" not in str(caught.value)


def test_a_controller_must_know_how_thinking_is_closed():
    with pytest.raises(ControllerError, match="needs to know how thinking is closed"):
        run(budget=3)
    with pytest.raises(ControllerError, match="exactly once"):
        Thinking(Markers("<think>", "</think>"), "So ")
    with pytest.raises(ControllerError, match="leave thinking out"):
        Controller(exit=Scripted(act=lambda at: False), thinking=BARE)


def unread(self, edit):
    """Shows the forced tokens and lets the model read only the last one, as a push on the logits would."""
    apply(self, edit)
    if edit is not None and edit.closer is not None:
        self.text.pending = self.text.pending[: -len(edit.forced)] + edit.forced[-1:]


apply = Loop._apply
WRONG = {
    "forced tokens that the model does not read": (Loop, "_apply", unread),
    "a second close that stays": (ThinkingControl, "_early_close", lambda self, token: None),
    "a half-written marker that is shown": (ThinkingControl, "held", lambda *_, **__: 0),
}


@pytest.mark.parametrize("error", WRONG)
def test_planted_errors_are_caught(monkeypatch, error):
    owner, name, wrong = WRONG[error]
    monkeypatch.setattr(owner, name, wrong)
    with pytest.raises(AssertionError):
        check(40, 4, "")


def test_recurrent_models_have_budgets_and_no_second_thoughts():
    for seed in range(10):
        _, trace = run(seed=seed, budget=4, thinking=THINKING, engine=Recurrent())
        assert trace.thinking_tokens <= 4
    with pytest.raises(ControllerError, match="can't forget tokens"):
        run(min_thinking=4, thinking=THINKING, engine=Recurrent())


def test_span_knows_a_half_written_marker():
    span = Span(TOKENIZER, THINKING.markers, None)
    span.begin(PROMPT)
    for text, expected in (("a ", None), ("x</th", (1, "x")), ("ink>", None)):
        span.push(TEXTS.index(text))
        half = span.half_closed() if span.phase == "think" else None
        assert (half and (half.first - len(PROMPT), half.before)) == expected
    assert span.phase == "answer" and (span.closed.first - len(PROMPT), span.closed.before) == (1, "x")
    assert CLOSE not in TOKENIZER.encode("x</th")
