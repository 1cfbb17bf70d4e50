"""A conversation as its chat template takes it, and the prompt's tokens.

Templates expect what transformers and llama-cpp-python give them: contents as text, arguments of tool calls as objects.
The template runs in a process of its own, bounded in time and memory, since what it is given comes from outside.
"""

from __future__ import annotations

from typing import Any

from reasonctl.controller import ControllerError, Tokenizer
from reasonctl.controller.core import parse
from reasonctl.controller.thinking import TemplateRenderer

from ..model import Model
from .refusals import invalid
from .requests import ChatRequest, Message

_TEXT = ("text", "input_text", "output_text")


class Prompts:
    """Makes prompts of one model."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._template = model.template
        self._renderer = None if model.template is None else TemplateRenderer(model.template)

    def chat(self, request: ChatRequest) -> list[int]:
        """The prompt's tokens of a conversation.

        Raises:
            Refusal: A message can't be read, or the template refuses them.
        """
        if self._renderer is None:
            raise invalid("this model has no chat template; use /v1/completions", "messages")
        messages = [plain(message, i) for i, message in enumerate(request.messages)]
        variables: dict[str, Any] = {**self._model.special, "messages": messages, "add_generation_prompt": True}
        if request.tools and request.tool_choice != "none":
            self._check_tools()
            variables["tools"] = [tool.model_dump(exclude_none=True) for tool in request.tools]
        if request.chat_template_kwargs.enable_thinking is not None:
            variables["enable_thinking"] = request.chat_template_kwargs.enable_thinking
        try:
            text = self._renderer.render(variables)
        except ControllerError as error:
            raise invalid(str(error), "messages") from None
        return self.encoded(text)

    def encoded(self, text: str) -> list[int]:
        """The tokens of a text that writes its own beginning. Raises Refusal where there are none."""
        tokens = self._model.tokenizer.encode(text)
        if not tokens:
            raise invalid("the prompt has no tokens; give some text", "messages")
        return tokens

    def completion(self, prompt: str | list[int] | list[str]) -> list[int]:
        """The tokens of a raw prompt.

        Raises:
            Refusal: There are none, there are several prompts, or an id is none of the model's.
        """
        if isinstance(prompt, str):
            prompt = [prompt]
        if len(prompt) == 1 and isinstance(prompt[0], str):
            tokens = [*self._model.start, *self._model.tokenizer.encode(prompt[0])]
        elif all(isinstance(token, int) for token in prompt):
            tokens = [int(token) for token in prompt]
            wrong = next((token for token in tokens if not 0 <= token < self._model.can.vocabulary), None)
            if wrong is not None:
                raise invalid(f"token {wrong} is none of the model's {self._model.can.vocabulary}", "prompt")
        else:
            raise invalid(f"prompt holds {len(prompt)} texts; send each in a request of its own", "prompt")
        if not tokens:
            raise invalid("the prompt has no tokens; give some text", "prompt")
        return tokens

    def close(self) -> None:
        """End the template's process."""
        if self._renderer is not None:
            self._renderer.close()

    def _check_tools(self) -> None:
        """Raises Refusal where the template wouldn't show tools to the model."""
        if self._template is not None and "tools" not in self._template:
            raise invalid("this model's chat template shows no tools; leave tools out", "tools")


def plain(message: Message, i: int) -> dict[str, Any]:
    """A message as templates take it.

    Args:
        message: The message.
        i: Its number, for errors.

    Raises:
        Refusal: A part of it isn't text, or a tool call is broken.
    """
    given: dict[str, Any] = {"role": "system" if message.role == "developer" else message.role}
    given["content"] = _text(message.content, f"messages.{i}.content")
    if message.content is None and not (message.role == "assistant" and message.tool_calls):
        raise invalid(f"messages.{i} has no content", f"messages.{i}.content")
    if message.tool_calls:
        given["tool_calls"] = [_call(call, f"messages.{i}.tool_calls") for call in message.tool_calls]
    for name in ("name", "tool_call_id", "reasoning_content"):
        value = getattr(message, name)
        if value is not None:
            given[name] = value
    return given


def _text(content: str | list[dict[str, Any]] | None, place: str) -> str:
    """The text of a content. Raises Refusal for anything else in it."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    texts = []
    for part in content:
        kind, text = part.get("type"), part.get("text")
        if kind == "image_url":
            raise invalid("this model reads no pictures, and no URL is opened; leave them out", place)
        if kind not in _TEXT or not isinstance(text, str) or set(part) - {"type", "text", "annotations"}:
            raise invalid(f"{place} has a part of type {str(kind)!r:.40}; this model reads text only", place)
        texts.append(text)
    return "".join(texts)


def _call(call: dict[str, Any], place: str) -> dict[str, Any]:
    """A tool call of an earlier answer, its arguments as an object."""
    function = call.get("function")
    if call.get("type", "function") != "function" or not isinstance(function, dict):
        raise invalid(f"{place} holds what is no function call", place)
    name, arguments = function.get("name"), function.get("arguments", "{}")
    if not isinstance(name, str) or not isinstance(arguments, str):
        raise invalid(f"{place}: a call has a name and arguments, both text", place)
    try:
        value = parse(arguments or "{}", f"{place}: arguments")
    except ControllerError as error:
        raise invalid(str(error), place) from None
    return {"id": str(call.get("id", "")), "type": "function", "function": {"name": name, "arguments": value}}


def ends_open(prompt: list[int], tokenizer: Tokenizer, opening: str) -> bool:
    """Whether a prompt ends in the marker that opens thinking."""
    tail = tokenizer.decode(prompt[-(len(opening.encode()) + 64) :])
    return tail.rstrip().endswith(opening.rstrip())
