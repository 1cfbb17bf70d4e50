"""A call's own grammar or response_format constrains the answer and leaves the thoughts alone, on both libraries."""

from __future__ import annotations

import json

import pytest
import torch
from llama_cpp import LlamaGrammar

from reasonctl.backends import attach
from reasonctl.backends.llama.tool_calls import split_thoughts
from reasonctl.backends.toy import ToyEngine, ToyTokenizer
from reasonctl.controller import (
    AnswerOnly,
    Call,
    Chain,
    Controller,
    ControllerError,
    Grammar,
    Keys,
    Markers,
    PromptLookup,
    Thinking,
    Trace,
)
from support.llama_models import CHAT, PROMPT, ExitAt, open_llama

SCHEMA = {"enum": [3, 14]}
FORMATS = [{"type": "json_object", "schema": SCHEMA}, {"type": "json_schema", "json_schema": {"schema": SCHEMA}}]
LIMITS = {"budget": {"budget": 9}, "own close": {"always_answer": True}, "exit": {"exit": ExitAt(0)}}
DRAFTERS = {"plain": None, "drafted": PromptLookup(size=4)}


@pytest.fixture(scope="module")
def llm():
    return open_llama(n_ctx=512)


def check(text, free, trace):
    """The thoughts are those of a run without a grammar, and the answer is a text of the schema."""
    thoughts, closed, answer = text.partition("</think>")
    assert closed and "</think>" not in answer
    assert json.loads(answer) in (3, 14)
    assert free.startswith(thoughts) and trace.thinking_tokens > 4


def text_of(made):
    return made["choices"][0]["message"]["content"] if "message" in made["choices"][0] else made["choices"][0]["text"]


@pytest.mark.parametrize("drafter", DRAFTERS)
@pytest.mark.parametrize("limits", LIMITS)
def test_on_llama_cpp(llm, limits, drafter):
    with attach(llm, Controller(drafter=DRAFTERS[drafter], **LIMITS[limits])) as handle:
        free = text_of(llm.create_chat_completion(CHAT, max_tokens=200, temperature=0.0))
        made = llm.create_chat_completion(CHAT, max_tokens=200, temperature=0.0, response_format=FORMATS[0])
        check(text_of(made), free, handle.trace)
        grammar = LlamaGrammar.from_json_schema(json.dumps(SCHEMA), verbose=False)
        check(text_of(llm(PROMPT, max_tokens=200, temperature=0.0, grammar=grammar)), free, handle.trace)


PICK = {"name": "pick", "parameters": {"type": "object", "properties": {"n": SCHEMA}, "required": ["n"]}}
TOOLS = {
    "tools": [{"type": "function", "function": PICK}],
    "tool_choice": {"type": "function", "function": {"name": "pick"}},
}


def called(made):
    """(content, arguments) of a tool call, or of the chunks of one."""
    if isinstance(made, dict):
        message = made["choices"][0]["message"]
        assert message["function_call"] == message["tool_calls"][0]["function"]
        return message["content"], message["function_call"]["arguments"]
    deltas = [chunk["choices"][0]["delta"] for chunk in made]
    content = "".join(delta.get("content") or "" for delta in deltas)
    calls = [call["function"] for delta in deltas for call in delta.get("tool_calls") or ()]
    assert [call["arguments"] for call in calls] == [
        delta["function_call"]["arguments"] for delta in deltas if delta.get("function_call")
    ]
    return content, "".join(call["arguments"] for call in calls)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("drafter", DRAFTERS)
@pytest.mark.parametrize("limits", LIMITS)
def test_the_tools_of_llama_cpp(llm, limits, drafter, stream):
    """The call's arguments are JSON of the tool's schema, as a caller reads them; the thoughts come before it."""
    asked = {"max_tokens": 200, "temperature": 0.0}
    with attach(llm, Controller(drafter=DRAFTERS[drafter], **LIMITS[limits])) as handle:
        free = text_of(llm.create_chat_completion(CHAT, **asked))
        content, arguments = called(llm.create_chat_completion(CHAT, stream=stream, **asked, **TOOLS))
        assert json.loads(arguments)["n"] in (3, 14)
        thoughts, closed, rest = content.partition("</think>")
        assert free.startswith(thoughts) and closed and not rest.strip() and handle.trace.thinking_tokens > 4
        cut, nothing = called(llm.create_chat_completion(CHAT, stream=stream, **{**asked, "max_tokens": 4}, **TOOLS))
        assert thoughts.startswith(cut) and not nothing  # it never came to the call
    with attach(llm, Controller()):  # no thoughts: the grammar governs all, as in the library
        content, arguments = called(llm.create_chat_completion(CHAT, stream=stream, **asked, **TOOLS))
        assert not content and json.loads(arguments)["n"] in (3, 14)


def test_the_model_s_own_opening_is_found_in_a_tool_call():
    markers = Markers("<think>", "</think>")
    assert split_thoughts('<think>a</think> {"n": 3}', markers, opened=False) == ("<think>a</think> ", '{"n": 3}')
    assert split_thoughts('{"n": "</think>"}', markers, opened=False) == ("", '{"n": "</think>"}')
    assert split_thoughts("a", markers, opened=True) == ("a", "")


def test_a_controller_that_has_nothing_to_do_leaves_the_library_s_meaning(llm):
    with attach(llm, Controller()) as handle:
        made = llm.create_chat_completion(CHAT, max_tokens=60, temperature=0.0, response_format=FORMATS[0])
        assert json.loads(text_of(made)) in (3, 14)
        stream = llm.create_chat_completion(
            CHAT, max_tokens=60, temperature=0.0, response_format=FORMATS[0], stream=True
        )
        next(stream), next(stream)
        assert not handle.answer_now()  # the grammar would not admit what closes thinking
        stream.close()


def generate(model, tokenizer, prompts, **asked):
    inputs = tokenizer(prompts, return_tensors="pt", padding=True)
    out = model.generate(**inputs, do_sample=False, max_new_tokens=200, **asked)
    return [tokenizer.decode(row[inputs["input_ids"].shape[1] :]).split("<eos>")[0] for row in out]


@pytest.mark.parametrize("drafter", DRAFTERS)
@pytest.mark.parametrize("limits", LIMITS)
def test_on_transformers(hf, limits, drafter):
    model, tokenizer = hf
    with attach(model, Controller(drafter=DRAFTERS[drafter], **LIMITS[limits]), tokenizer=tokenizer) as handle:
        (free,) = generate(model, tokenizer, [PROMPT])
        for asked in (*({"response_format": form} for form in FORMATS), {"grammar": json.dumps(SCHEMA)}):
            (text,) = generate(model, tokenizer, [PROMPT], **asked)
            check(text, free, handle.trace)


def test_the_rows_of_a_batch(hf):
    model, tokenizer = hf
    prompts = [PROMPT, "Q: 41 a+7 b-2 c+5\n<think>\n"]
    with attach(model, Controller(budget=9), tokenizer=tokenizer) as handle:
        free = generate(model, tokenizer, prompts)
        made = generate(model, tokenizer, prompts, response_format=FORMATS[0])
        for text, without, trace in zip(made, free, handle.traces, strict=True):
            check(text, without, trace)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"response_format": {"type": "xml"}}, "response_format is .*; give {'type': 'json_object'}"),
        ({"response_format": FORMATS[0], "grammar": "root ::= [0-9]"}, "were both given"),
        ({"grammar": 5}, "grammar is int; give EBNF"),
        ({"grammar": "root ::= ("}, "grammar can't be read"),
    ],
)
def test_mistakes_are_one_line(hf, asked, message):
    model, tokenizer = hf
    with attach(model, Controller(), tokenizer=tokenizer), pytest.raises(ControllerError, match=message) as caught:
        generate(model, tokenizer, [PROMPT], **asked)
    assert "\n" not in str(caught.value)
    assert torch.is_grad_enabled()  # nothing of the library's call is left half done


TOY = ToyTokenizer(["<end>", "a", "b", "<think>", "</think>", "c", "<", "think>"])


@pytest.mark.parametrize("opening", [(3,), (6, 7)], ids=["one token", "two tokens"])
def test_a_model_that_opens_thinking_itself_may_think_or_answer_at_once(opening):
    """Whatever it does first: what follows the thoughts, or all of a text without any, is one of the grammar."""
    engine = ToyEngine(vocabulary=8, order=2, seed=5, concentration=1.0)
    policy = Chain(AnswerOnly(Grammar('root ::= "a" ("b" | "c")* "ab"'), opening))
    thought = answered = 0
    for run in range(80):
        trace = Trace()
        call = Call([1, 2], 40, frozenset([0]), Keys(seed=1, run=run), policy)
        controller = Controller(
            thinking=Thinking(Markers("<think>", "</think>"), "</think>"), budget=4, always_answer=True
        )
        list(controller.stream(engine.session(), TOY, call, trace))
        if trace.finish_reason != "stop":
            continue
        text = TOY.decode(trace.tokens).removesuffix("<end>")
        thoughts, closed, answer = text.partition("</think>")
        assert thoughts.startswith("<think>") == bool(closed)
        answer = answer if closed else text
        assert answer[0] == "a" and answer.endswith("ab") and set(answer[1:-2]) <= {"b", "c"}
        thought, answered = thought + bool(closed), answered + (not closed)
        assert len(trace.spans) == bool(closed)
    assert thought >= 5 and answered >= 5
