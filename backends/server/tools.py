"""Tool calls: how one is forced by a grammar, and how one is found in what a model wrote.

Models write `<tool_call>{"name": ..., "arguments": {...}}</tool_call>` (Hermes, Qwen) or the object alone (Llama 3, and
whatever a grammar has forced). Text that isn't such a call stays the answer's text.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reasonctl.controller import ControllerError
from reasonctl.controller.core import parse

from .requests import ChatRequest, NamedTool, Tool

_BLOCK = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)
_ARGUMENTS = ("arguments", "parameters")


@dataclass(frozen=True)
class ToolCall:
    """A call that the model wrote."""

    id: str
    """A random name of it."""
    name: str
    """The function."""
    arguments: str
    """Its arguments, as JSON."""


@dataclass(frozen=True)
class Answer:
    """What an answer's text says."""

    content: str | None
    """The text without its calls; None where nothing else was written."""
    calls: tuple[ToolCall, ...] = ()
    """The calls, in order."""


def forced_schema(request: ChatRequest) -> str | None:
    """The JSON schema of the call that must be written; None: none must be."""
    choice = request.tool_choice
    if isinstance(choice, NamedTool):
        tools = [tool for tool in request.tools if tool.function.name == choice.function.name]
    elif choice == "required":
        tools = request.tools
    else:
        return None
    schemas = [_schema(tool) for tool in tools]
    return json.dumps(schemas[0] if len(schemas) == 1 else {"anyOf": schemas})


def _schema(tool: Tool) -> dict[str, Any]:
    parameters = tool.function.parameters or {"type": "object", "properties": {}, "additionalProperties": False}
    properties = {"name": {"const": tool.function.name}, "arguments": parameters}
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def read_answer(text: str, tools: Sequence[Tool], *, parallel: bool = True) -> Answer:
    """The calls in an answer's text.

    Args:
        text: The text.
        tools: Those that may be called; a call of another one is text.
        parallel: Whether more than the first call is taken.
    """
    names = {tool.function.name for tool in tools}
    if not names:
        return Answer(text)
    whole = _call(text, names)
    if whole is not None:
        return Answer(None, (whole,))
    calls, rest, end = list[ToolCall](), list[str](), 0
    for block in _BLOCK.finditer(text):
        call = _call(block[1], names)
        if call is None:
            continue
        rest.append(text[end : block.start()])
        end = block.end()
        calls.append(call)
    rest.append(text[end:])
    content = "".join(rest).strip() if calls else text
    return Answer(content or None, tuple(calls if parallel else calls[:1]))


def _call(text: str, names: set[str]) -> ToolCall | None:
    """The call that a text is; None for any other text."""
    text = text.strip()
    if not text.startswith("{"):
        return None
    try:
        value = parse(text, "a call")
    except ControllerError:
        return None
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or value["name"] not in names:
        return None
    arguments: Any = next((value[key] for key in _ARGUMENTS if key in value), {})
    if not isinstance(arguments, dict) or set(value) - {"name", *_ARGUMENTS}:
        return None
    return ToolCall(f"call_{secrets.token_hex(12)}", value["name"], json.dumps(arguments, ensure_ascii=False))
