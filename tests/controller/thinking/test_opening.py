"""Who opens the span: the prompt, the model, or nobody; and what a close means that nothing had opened."""

from __future__ import annotations

import pytest

from reasonctl.backends.toy import ToyEngine, ToyTokenizer
from reasonctl.controller import (
    Call,
    Controller,
    ControllerError,
    Cues,
    Greedy,
    Keys,
    Markers,
    Span,
    Thinking,
    Trace,
)
from reasonctl.controller.thinking.chat_template import read_template
from support.scripted import Scripted

BYTES = ToyTokenizer([bytes([i]) for i in range(256)])
MARKERS = Markers("<think>", "</think>")
SUFFIX = "</think>\n"
AT_ONCE = Thinking(MARKERS, SUFFIX, "start")
ITSELF = Thinking(MARKERS, SUFFIX, "model")


class Writes(Greedy):
    """Writes a text, byte by byte, wherever it is after the prompt."""

    def __init__(self, prompt: int, text: str) -> None:
        super().__init__()
        self.prompt, self.written = prompt, list(text.encode())

    def step(self, state, row):
        return None, self.written[len(row.tokens) - self.prompt]


def run(text: str, controller: Controller, prompt: str = "assistant:", most: int = 60):
    """(text, trace) of a run in which the model writes `text` and dots."""
    tokens = list(prompt.encode())
    call = Call(tokens, most, frozenset(), Keys(seed=0), Writes(len(tokens), text + "." * 200))
    trace = Trace()
    shown = [
        event.token for event in controller.stream(ToyEngine(vocabulary=256, order=1).session(), BYTES, call, trace)
    ]
    return bytes(shown).decode(), trace


def phases(text: str, prompt: str, thinking: Thinking) -> tuple[str, int | None]:
    """(phase, first thinking token behind the prompt) once `text` is read."""
    span = Span(BYTES, thinking.markers, None, thinking.opens)
    span.begin(list(prompt.encode()))
    for token in text.encode():
        span.push(token)
    return span.phase, None if span.opened is None else span.opened - len(prompt.encode())


@pytest.mark.parametrize(
    ("text", "prompt", "thinking", "expected"),
    [
        ("so ", "assistant:", AT_ONCE, ("think", 0)),
        ("so </think>", "assistant:", AT_ONCE, ("answer", 0)),
        ("so ", "assistant:", ITSELF, ("before", None)),
        ("so </think>", "assistant:", ITSELF, ("before", None)),
        ("<think>so ", "assistant:", ITSELF, ("think", 7)),
        # An opening marker that the model writes all the same is no thought.
        ("<think>so ", "assistant:", AT_ONCE, ("think", 7)),
        ("\n<think>\nso ", "assistant:", AT_ONCE, ("think", 9)),
        ("<thin so ", "assistant:", AT_ONCE, ("think", 0)),
        ("so <think> ", "assistant:", AT_ONCE, ("think", 0)),
        ("so ", "assistant:<think>\n", AT_ONCE, ("think", 0)),
        # The prompt closes: thinking is switched off.
        ("so ", "assistant:</think>\n\n", AT_ONCE, ("before", None)),
        ("so ", "assistant:<think>\n\n</think>\n\n", AT_ONCE, ("before", None)),
    ],
)
def test_where_a_span_begins(text, prompt, thinking, expected):
    assert phases(text, prompt, thinking) == expected


@pytest.mark.parametrize("budget", range(1, 9))
def test_a_budget_holds_where_nothing_opens_the_span(budget):
    text, trace = run("many thoughts, ", Controller(thinking=AT_ONCE, budget=budget))
    assert text.startswith("many thoughts, "[:budget] + SUFFIX) and trace.closed_by == "budget"
    assert trace.thinking == (0, budget) and not trace.warnings


@pytest.mark.parametrize("budget", range(1, 9))
def test_a_budget_holds_where_the_prompt_opens_the_span(budget):
    text, trace = run(
        "many thoughts, ",
        Controller(thinking=Thinking(MARKERS, SUFFIX, "prompt"), budget=budget),
        "assistant:<think>\n",
    )
    assert text.startswith("many thoughts, "[:budget] + SUFFIX) and trace.closed_by == "budget"


def test_text_in_front_of_an_opening_marker_is_no_thought():
    text, trace = run("Plain answer.", Controller(thinking=ITSELF, budget=3), most=13)
    assert text == "Plain answer." and trace.thinking is None and not trace.warnings


def test_a_close_that_nothing_opened_is_a_warning_once_a_run():
    text, trace = run("so </think> and </think> again", Controller(thinking=ITSELF, budget=3), most=40)
    assert text.startswith("so </think> and </think> again") and trace.closed_by is None
    (warning,) = trace.warnings
    assert "</think>" in warning and "opens='start'" in warning and "\n" not in warning


def test_a_marker_that_ends_messages_warns_of_nothing_and_is_left_alone():
    """As in a template of channels: a tool call in front, and another message behind the answer's header."""
    suffix = "<|end|><|start|>final<|message|>"
    channels = Thinking(Markers("<|analysis|>", "<|end|>"), suffix, "model", ends_messages=True)
    controller = Controller(thinking=channels, budget=4)
    _, trace = run("<|call|>x<|end|>", controller)
    assert trace.closed_by is None and not trace.warnings
    text, trace = run("<|analysis|>thought" + " " * 30 + "yes<|end|>", controller, most=90)
    assert text.startswith("<|analysis|>thou" + suffix) and trace.closed_by == "budget" and trace.repeated == 0
    assert text.count("<|end|>") == 2


def test_an_exit_rule_keeps_its_suffix_and_the_template_says_who_opens():
    controller = Controller(
        exit=Scripted(
            act=lambda at: True, suffix="</think>\nSo ", markers=MARKERS, cues=Cues(["wait"]), max_cues=10, wanted=()
        )
    )
    text, trace = run("so wait, more", controller)
    assert trace.closed_by is None  # nothing opened the span
    text, trace = run("so wait, more", controller.knowing(AT_ONCE))
    assert text.startswith("so </think>\nSo ") and trace.closed_by == "exit"
    other = Thinking(Markers("<a>", "</a>"), "</a>", "start")
    assert controller.knowing(other) is controller and controller.knowing(None) is controller
    mine = Controller(thinking=ITSELF)
    assert mine.knowing(AT_ONCE) is mine


def test_a_template_that_never_opens_lets_a_budget_hold():
    template = "{% for m in messages %}{{ m.content.split('</think>')[-1] }}{% endfor %}"
    text, trace = run("many thoughts", Controller(thinking=read_template(template).thinking, budget=4))
    assert text.startswith("many</think>\n\n") and trace.closed_by == "budget"


def test_who_opens_is_one_of_three():
    with pytest.raises(ControllerError, match="opens is 'me'; it must be 'prompt', 'model' or 'start'"):
        Thinking(MARKERS, SUFFIX, "me")
