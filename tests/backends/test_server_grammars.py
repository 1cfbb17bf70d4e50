"""Answers that a grammar forces: JSON, and calls of tools, over both libraries. Each server starts xgrammar twice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from reasonctl.backends.server.limits import ServerLimits
from reasonctl.backends.server.requests import ChatRequest, read_request
from reasonctl.backends.server.tools import forced_schema
from support.serving import Running, running

SHOWS_TOOLS = "{%- for tool in tools or [] -%}{{- tool.function.name[:0] -}}{%- endfor -%}"
"""What a template without tools lacks; tiny can't read them anyway."""
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "boolean"}, "b": {"enum": ["x", "y"]}},
    "required": ["a", "b"],
    "additionalProperties": False,
}


def tool(name: str, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name} | ({"parameters": parameters} if parameters else {})}


TOOLS = [tool("add", SCHEMA), tool("stop")]
NAMED = {"type": "function", "function": {"name": "add"}}


def asked(**fields: Any) -> ChatRequest:
    given = {"model": "m", "messages": [{"role": "user", "content": "x"}], "tools": TOOLS, **fields}
    request = read_request(ChatRequest, json.dumps(given).encode(), ServerLimits())
    assert isinstance(request, ChatRequest)
    return request


def test_the_schema_of_a_forced_call() -> None:
    add, stop = (
        {
            "type": "object",
            "properties": {"name": {"const": name}, "arguments": arguments},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for name, arguments in (
            ("add", SCHEMA),
            ("stop", {"type": "object", "properties": {}, "additionalProperties": False}),
        )
    )
    assert json.loads(forced_schema(asked(tool_choice=NAMED)) or "") == add
    assert json.loads(forced_schema(asked(tool_choice="required")) or "") == {"anyOf": [add, stop]}
    for free in ("auto", "none", None):
        assert forced_schema(asked(tool_choice=free)) is None


@pytest.fixture(scope="module", params=["llama.cpp", "transformers"])
def served(request: pytest.FixtureRequest) -> Iterator[Running]:
    with running(request.param, before_template=SHOWS_TOOLS) as made:
        yield made


@pytest.mark.slow
@pytest.mark.parametrize(
    "form",
    [
        {"type": "json_object"},
        {"type": "json_object", "schema": SCHEMA},
        {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}},
    ],
    ids=lambda form: "_".join(form),
)
def test_an_answer_keeps_to_its_format(served: Running, form: dict[str, Any]) -> None:
    """Thoughts are free; the answer is JSON of the schema, unless it was cut at its length."""
    free = served.ask().choices[0].message
    ended = 0
    for seed in range(3):
        answer = served.ask(response_format=form, seed=seed, max_tokens=300, temperature=1.5)
        (choice,) = answer.choices
        assert choice.message.content.lstrip().startswith("{") and choice.message.reasoning_content
        if choice.finish_reason == "stop":
            ended += 1
            value = json.loads(choice.message.content)
            if len(form) > 1:
                assert set(value) == {"a", "b"} and value["a"] in (True, False) and value["b"] in ("x", "y")
    assert ended or len(form) == 1, "a bounded schema ends"
    assert served.ask().choices[0].message == free, "the grammar was that request's"


@pytest.mark.slow
@pytest.mark.parametrize("choice", ["required", NAMED], ids=["required", "named"])
def test_a_call_is_forced(served: Running, choice: Any) -> None:
    for seed in range(3):
        fields: dict[str, Any] = {"tools": TOOLS, "tool_choice": choice, "max_tokens": 300, "temperature": 1.5}
        answer = served.ask(seed=seed, **fields)
        (one,) = answer.choices
        chunks = list(served.ask(seed=seed, stream=True, **fields))
        streamed = [call for chunk in chunks for c in chunk.choices for call in c.delta.tool_calls or ()]
        if one.finish_reason == "length":
            continue
        (call,) = one.message.tool_calls
        assert one.finish_reason == "tool_calls" and one.message.content is None
        assert call.function.name in (["add"] if choice == NAMED else ["add", "stop"])
        arguments = json.loads(call.function.arguments)
        assert set(arguments) == ({"a", "b"} if call.function.name == "add" else set())
        assert [(c.function.name, c.function.arguments) for c in streamed] == [
            (call.function.name, call.function.arguments)
        ]
        assert [c.finish_reason for chunk in chunks for c in chunk.choices if c.finish_reason] == ["tool_calls"]
        return
    raise AssertionError("no call was ended within its tokens")


@pytest.mark.slow
def test_a_schema_that_costs_too_much_is_refused(served: Running) -> None:
    """And the server answers on. Compiling the first takes xgrammar minutes; the second names what isn't there."""
    huge = {"type": "object", "properties": {f"p{i}": {"type": "integer"} for i in range(800)}}
    wrong = {"type": "object", "properties": {"a": {"$ref": "#/nowhere"}}}
    for schema, why in ((huge, "it takes too much time or memory"), (wrong, "nowhere")):
        with pytest.raises(openai.BadRequestError, match=f"response_format can't be used.*{why}"):
            served.ask(response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": schema}})
    assert served.ask(max_tokens=3).usage.completion_tokens == 3
