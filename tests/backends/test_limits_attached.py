"""Budgets, re-opening, shadow mode and one call's own wishes under both libraries, on the bundled model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, TextStreamer

from reasonctl.backends import attach
from reasonctl.backends.hf.tokenizer import HFTokenizer
from reasonctl.backends.llama.tokenizer import LlamaTokenizer
from reasonctl.backends.load import tiny_folder
from reasonctl.controller import Controller, ControllerError, Decision, ExitRule, PromptLookup
from support.llama_models import CALLS, CHAT, PROMPT, ExitAt, Scripted, first, open_llama


@dataclass
class Library:
    """One way to call the bundled model greedily: token ids in, (generated ids, handle) out."""

    model: Any
    tokenizer: Any
    text: Any

    def attach(self, controller):
        return attach(self.model, controller, tokenizer=self.tokenizer)

    def ids(self, text=PROMPT):
        return self.text.encode(text)

    def __call__(self, prompt, most=300, **wishes):
        if self.tokenizer is None:
            return first(most, self.model.generate(prompt, temp=0.0, **wishes), self.model.token_eos())
        inputs = {"input_ids": torch.tensor([prompt]), "attention_mask": torch.ones(1, len(prompt), dtype=torch.long)}
        return self.model.generate(**inputs, do_sample=False, max_new_tokens=most, **wishes)[0, len(prompt) :].tolist()


@pytest.fixture(scope="module")
def llama():
    llm = open_llama(n_ctx=1024)
    return Library(llm, None, LlamaTokenizer(llm))


@pytest.fixture(scope="module")
def hf():
    model = AutoModelForCausalLM.from_pretrained(tiny_folder()).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder())
    return Library(model, tokenizer, HFTokenizer(tokenizer))


@pytest.fixture(params=["llama", "hf"])
def library(request):
    return request.getfixturevalue(request.param)


def plain(library):
    with library.attach(Controller()) as handle:
        tokens = library(library.ids())
        return tokens, handle.trace


@pytest.mark.parametrize("budget", [0, 1, 17])
def test_a_budget_is_read_and_nothing_leaks(library, budget):
    free, trace = plain(library)
    assert trace.closed_by == "model" and trace.thinking_tokens > 20
    with library.attach(Controller(budget=budget, wrap_up="\nok\n")) as handle:
        tokens = library(library.ids())
    trace = handle.trace
    start, length = trace.forced
    assert start == budget == trace.thinking_tokens and tokens[:start] == free[:start]
    assert library.text.decode(tokens[start : start + length]) == "\nok\n</think>\n"
    text = library.text.decode(tokens)
    assert text.count("</think>") == text.count("\nok\n") == 1
    assert trace.why == f"budget of {budget} thinking tokens used up"
    assert trace.cost == len(tokens) + trace.repeated  # a closing marker is one token here
    # The answer is the one of the model as it came, prompted with all of it.
    head = tokens[: start + length]
    rest = library([*library.ids(), *head], most=6)
    assert len(rest) > 1 and tokens[len(head) :][: len(rest)] == rest


def test_an_early_close_is_taken_back(library):
    free, free_trace = plain(library)
    end = free_trace.thinking[1]
    with library.attach(Controller(min_thinking=end + 3)) as handle:
        tokens = library(library.ids(), most=end + 60)
    assert handle.trace.reopened[0] == end and tokens[:end] == free[:end]
    assert library.text.decode(tokens[end:]).lstrip().startswith("Wait")
    assert handle.trace.closed_by != "model" or handle.trace.thinking_tokens >= end + 3
    assert "re-opened" in handle.trace.why


def test_the_rule_is_asked_at_the_forced_cue(library):
    free, free_trace = plain(library)
    cues = sum(1 for _ in ExitAt.cues.pattern.finditer(library.text.decode(free)))
    rule = ExitAt(float("inf"))
    with library.attach(Controller(exit=rule, continue_times=1)) as handle:
        library(library.ids(), most=400)
    start = handle.trace.reopened[0]
    tokens, cue, hidden = next(b for b in rule.boundaries if b[1].first >= len(library.ids()) + start)
    assert cue.name == "wait" and cue.index <= cues and set(hidden) == {1, 3}
    exits = ExitAt(cue.index)
    with library.attach(Controller(exit=exits, continue_times=1)) as handle:
        tokens = library(library.ids(), most=400)
    assert handle.trace.exit.index == cue.index and tokens[:start] == free[:start]
    text = library.text.decode(tokens)
    assert text.count("</think>") == 1 and text.count("Wait") == library.text.decode(free[:start]).count("Wait")


@pytest.mark.parametrize("trials", [False, True])
def test_shadow_mode_changes_no_token(library, trials):
    free, _ = plain(library)
    with library.attach(Controller(exit=ExitAt(0, trials), shadow=True)) as handle:
        assert library(library.ids()) == free
    trace = handle.trace
    assert (
        trace.exit is None and trace.closed_by == "model" and trace.why.startswith("shadow: would have exited at cue 1")
    )
    with library.attach(Controller(exit=ExitAt(0, trials))) as handle:
        library(library.ids())
    assert handle.trace.exit == trace.would_exit
    assert trace.would_save == trace.thinking[1] - handle.trace.exit.position > 0


class Calibrated(ExitRule):
    """A rule with a table of risks: from 0.1 on it exits at the first cue."""

    cues, suffix, markers, max_cues = ExitAt.cues, "</think>\n", ExitAt.markers, 100

    def __init__(self, risk):
        self.risk, self.threshold = risk, 0.0 if risk >= 0.1 else 1.0

    @property
    def why(self):
        return f"risk {self.risk}"

    def at(self, *, risk=None):
        return Calibrated(risk)

    def decide(self, at):
        return Decision(self.threshold < 0.5, at.cue.name, at.cue.index, at.cue.first - at.prompt, 0.5, self.threshold)
        yield


def test_one_call_has_its_own_wishes(library):
    free, _ = plain(library)
    with library.attach(Controller(exit=Calibrated(0.05))) as handle:
        tokens = library(library.ids(), thinking_budget=9)
        assert handle.trace.forced[0] == 9 == handle.trace.budget and handle.trace.overrides == {"thinking_budget": 9}
        library(library.ids(), risk=0.2)
        assert handle.trace.exit.index == 0 and handle.trace.overrides == {"risk": 0.2}
        assert library(library.ids(), risk=0.01, min_thinking=None) == free
        assert handle.trace.rule == "risk 0.01" and handle.trace.exit is None
        library(library.ids(), min_thinking=len(free) + 5)
        assert handle.trace.reopened
        assert library(library.ids()) == free and handle.trace.overrides == {}
        runs = handle.runs
        for wishes, message in (
            ({"risk": 2}, "risk is 2; it must lie between"),
            ({"thinking_budget": -4}, "budget is -4"),
            ({"continue_times": 0.5}, "continue_times is 0.5"),
        ):
            with pytest.raises(ControllerError, match=message) as caught:
                library(library.ids(), **wishes)
            assert "\n" not in str(caught.value)
        assert handle.runs == runs  # refused before work
    with library.attach(Controller(exit=ExitAt(0))), pytest.raises(ControllerError, match="a ExitAt promises none"):
        library(library.ids(), risk=0.1)
    with library.attach(Controller()), pytest.raises(ControllerError, match="no exit rule to hold it"):
        library(library.ids(), risk=0.1)
    with pytest.raises((TypeError, ValueError), match="thinking_budget"):
        library(library.ids(), thinking_budget=9)
    assert tokens != free


@pytest.mark.parametrize("name", sorted(CALLS))
@pytest.mark.parametrize("stream", [False, True])
def test_every_completion_call_takes_them(llama, name, stream):
    llm, call = llama.model, CALLS[name]
    with attach(llm, Controller()) as handle:
        made = call(llm, max_tokens=200, temperature=0.0, stream=stream, thinking_budget=12)
        list(made) if stream else None
        assert handle.trace.forced[0] == 12 and handle.trace.overrides == {"thinking_budget": 12}
        made = call(llm, max_tokens=200, temperature=0.0, stream=stream)
        list(made) if stream else None
        assert handle.trace.closed_by == "model" and handle.trace.overrides == {}
    assert type(llm).__name__ == "Llama" and "__call__" in vars(type(llm))
    with pytest.raises(TypeError, match="thinking_budget"):
        call(llm, max_tokens=2, thinking_budget=12)


def test_a_stream_keeps_the_wishes_of_the_call_that_made_it(llama):
    llm = llama.model
    with attach(llm, Controller()) as handle:
        late = llm.create_chat_completion(CHAT, stream=True, temperature=0.0, thinking_budget=5)
        with pytest.raises(ControllerError, match="budget is -1"):
            llm(PROMPT, thinking_budget=-1)
        text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in late)
        assert handle.trace.forced[0] == 5 and text.count("</think>") == 1


@pytest.mark.parametrize("drafter", [None, PromptLookup(size=4)], ids=["plain", "drafted"])
def test_a_loop_is_closed(library, drafter):
    line = "52 a+3 55\nWait, b-6 49\nWait, c+8 57\n"
    span = len(library.text.encode(line))
    assert span >= 20
    policy = Scripted(library.text, line * 9 + "</think>\n<eos>", "answer is 57<eos>")
    with library.attach(Controller(policy=policy, drafter=drafter, stop_loops=3)) as handle:
        tokens = library(library.ids(), most=400)
        trace = handle.trace
        assert trace.closed_by == "loop" and trace.loop == span and trace.thinking_tokens == 3 * span
        assert tokens[: len(trace.tokens)] == trace.tokens
        assert library.text.decode(tokens) == line * 3 + "</think>\nanswer is 57<eos>"
        assert trace.why == f"thinking repeated a span of {span} tokens 3 times in a row"
    with library.attach(Controller(policy=policy, drafter=drafter)) as handle:
        library(library.ids(), most=400)
        assert handle.trace.closed_by == "model" and handle.trace.stop_loops is None


@pytest.mark.parametrize("drafter", [None, PromptLookup(size=4)], ids=["plain", "drafted"])
def test_an_end_inside_thinking_gives_way_to_the_answer(library, drafter):
    policy = Scripted(library.text, "52 a+3 55\n<eos>", "answer is 57<eos>")
    for always, text in ((True, "52 a+3 55\n</think>\nanswer is 57<eos>"), (False, "52 a+3 55\n<eos>")):
        with library.attach(Controller(policy=policy, drafter=drafter, always_answer=always)) as handle:
            assert library.text.decode(library(library.ids(), most=60)) == text
            trace = handle.trace
            assert trace.closed_by == ("end" if always else None) and trace.always_answer == always
            assert ("ended the sequence inside" in trace.why) == always


def test_a_streamer_sees_only_what_stays(hf):
    shown = []

    class Listen(TextStreamer):
        def on_finalized_text(self, text, stream_end=False):
            shown.append(text)

    with hf.attach(Controller()):
        streamer = Listen(hf.tokenizer, skip_prompt=True)
        tokens = hf(hf.ids(), streamer=streamer, thinking_budget=20, min_thinking=4)
    assert "".join(shown) == hf.tokenizer.decode(tokens)


def test_transformers_needs_the_tokenizer(hf):
    with pytest.raises(ControllerError, match="read text; pass the tokenizer"):
        attach(hf.model, Controller(budget=5))
    with attach(hf.model, Controller()), pytest.raises(ControllerError, match="needs text; attach with the tokenizer"):
        hf(hf.ids(), thinking_budget=5)
