"""Reads logs of runs that were made elsewhere: prompts with completions, in the forms in which they are usually kept.

- Traces of ours, with their question, as `ctl run --json` prints them.
- Plain logs: `prompt` or `messages`, with `completion`, `text`, or `reasoning_content` and `content`, as llama.cpp's
  server has them.
- OpenAI's, which vLLM writes too: a request and its response in one line, `messages` with `choices`, or the two files
  of a batch, joined by `custom_id`.

A line that can't be used is counted by reason and named by its number. A file that can't be read is an error, and so is
a run that a controller steered by how it went.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NoReturn

from reasonctl.backends import Message
from reasonctl.controller import ControllerError
from reasonctl.controller.core import Fields, file_name, parse, raw_lines

MOST_LINES = 1 << 20
"""Most lines of all files of a log."""
NAMED = 5
"""Most lines that a message names."""

Finish = Literal["stop", "length"]

_FINISHES: dict[str, Finish] = {
    "stop": "stop",
    "eos": "stop",
    "end_turn": "stop",
    "length": "length",
    "limit": "length",
    "max_tokens": "length",
}
"""What engines say of how a run ended."""
_INSTRUCTIONS = ("system", "developer")
"""Roles of messages that say how to answer, and ask nothing."""


@dataclass(frozen=True, slots=True)
class LogLine:
    """One run of a log, as texts."""

    where: str
    """Its file and the number of its line."""
    prompt: str
    """The user's question, or what the template makes of it; of a conversation of several turns all of them."""
    text: str
    """The completion; without the reasoning, where that stands apart."""
    finish: Finish
    """How it ended."""
    reasoning: str | None = None
    """The reasoning, where the log keeps it apart. None: it is in `text`, if there is any."""
    tokens: tuple[int, ...] | None = None
    """The completion's tokens. None: the log has its text only."""
    messages: tuple[Message, ...] = ()
    """The conversation before the completion. (): a question alone."""


@dataclass
class Unusable:
    """Lines that can't be used, by reason."""

    lines: dict[str, list[str]] = field(default_factory=dict)
    """Where the lines of each reason stand, in order."""

    def count(self, reason: str, where: str) -> None:
        """Note a line."""
        self.lines.setdefault(reason, []).append(where)

    @property
    def total(self) -> int:
        """How many lines there are."""
        return sum(map(len, self.lines.values()))

    def messages(self) -> list[str]:
        """A line for each reason, for people."""
        return [
            f"{len(lines)} line{'' if len(lines) == 1 else 's'} unusable: {reason} ({', '.join(lines[:NAMED])}"
            + (f" and {len(lines) - NAMED} more)" if len(lines) > NAMED else ")")
            for reason, lines in self.lines.items()
        ]


@dataclass(frozen=True)
class RunLog:
    """What some files hold."""

    name: str
    """Names of the files."""
    lines: list[LogLine]
    """The lines that can be used so far, in order."""
    unusable: Unusable
    """The others."""
    sha256: str
    """Of the files' lines, in order."""


class _UnusableError(Exception):
    """A line can't be used; its text says why."""


class _SteeredError(Exception):
    """A controller steered a run by how it went: without such runs, the others are no sample."""


def read_log(paths: Sequence[str]) -> RunLog:
    """Read one log.

    Args:
        paths: Its files, such as the two of a batch.

    Raises:
        ControllerError: A file can't be read, there are too many lines, or a controller steered some of the runs.
    """
    unusable, digest = Unusable(), hashlib.sha256()
    requests: dict[str, Fields] = {}
    runs: list[Fields] = []
    for found in _objects(paths, unusable, digest.update):
        if "custom_id" in found and "body" in found and "response" not in found:
            requests[str(found.values["custom_id"])] = found
        else:
            runs.append(found)
        if len(runs) + len(requests) + unusable.total > MOST_LINES:
            raise ControllerError(f"the log has more than {MOST_LINES:,} lines; give a part of it")
    lines, steered = [], Unusable()
    for found in runs:
        try:
            lines.append(_run(found, requests, unusable))
        except _UnusableError as error:
            unusable.count(str(error), found.where)
        except _SteeredError as error:
            steered.count(str(error), found.where)
        except ControllerError:
            unusable.count("a field of another type", found.where)
    if steered.total:
        raise ControllerError(
            f"{'; '.join(steered.messages())}: which runs are left would depend on how they went, so no promise could "
            "be made from them; log runs in shadow mode (--shadow), or without an exit rule (--probe none) and limits "
            "of thinking"
        )
    return RunLog(", ".join(map(file_name, paths)), lines, unusable, digest.hexdigest())


def _objects(paths: Sequence[str], unusable: Unusable, read: Callable[[bytes], None]) -> Iterator[Fields]:
    for path in paths:
        for number, data in raw_lines(path, "a log of runs"):
            read(data.rstrip(b"\r\n") + b"\n")
            where = f"{Path(path).name}:{number}"
            try:
                yield Fields.of(parse(data, where), where)
            except ControllerError:
                unusable.count("no JSON object", where)


def _run(found: Fields, requests: dict[str, Fields], unusable: Unusable) -> LogLine:
    """The run of a line that is no bare request."""
    if "response" in found or "choices" in found:
        return _response(found, requests, unusable)
    if "prompt_tokens" in found and "tokens" in found:
        return _trace(found)
    return _line(found, found, found, found)


def _line(found: Fields, asked: Fields, said: Fields, ended: Fields) -> LogLine:
    """A run.

    Args:
        found: The line.
        asked: What holds the prompt.
        said: What holds the completion.
        ended: What says how it ended.
    """
    reasoning = _optional(said, "reasoning_content", "reasoning")
    text = _completion(said)
    if text is None and reasoning is None:
        _unusable("a chunk of a stream" if "delta" in ended else "no completion")
    conversation = _conversation(asked)
    prompt = _question(conversation) if conversation else _optional(asked, "question", "prompt")
    if prompt is None or not prompt.strip():
        _unusable("no prompt")
    alone = [message.role for message in conversation] == ["user"]
    return LogLine(
        found.where,
        prompt,
        text or "",
        _finish(ended),
        reasoning,
        messages=() if alone else conversation,
    )


def _trace(found: Fields) -> LogLine:
    """A trace of ours, which has tokens."""
    _check_own(found)
    tokens = [token for token in found.items("tokens") if type(token) is int and token >= 0]
    if len(tokens) != len(found.items("tokens")):
        _unusable("tokens that are no token ids")
    prompt = _optional(found, "question", "prompt")
    if prompt is None or not prompt.strip():
        _unusable("no prompt")
    return LogLine(found.where, prompt, _optional(found, "text") or "", _finish(found), tokens=tuple(tokens))


def _check_own(found: Fields) -> None:
    """Check that no controller steered a run of ours by how it went.

    An exit rule that could act counts where it didn't: in a log without the runs that it ended, only those stand that
    it let go on.
    """
    spans = [Fields.of(one, found.where) for one in found.items("spans")] if found.values.get("spans") else []
    closers = [_optional(one, "closed_by") for one in (found, *spans)]
    changes = [name for name in ("forced", "reopened", "warned", "repeated") if found.values.get(name)]
    if changes or any(closer not in (None, "model") for closer in closers):
        raise _SteeredError("the controller changed this run")
    if found.values.get("controlled") and not found.values.get("shadow") and found.values.get("decisions"):
        decisions = [Fields.of(one, found.where) for one in found.items("decisions")]
        if any(one.values.get("threshold") is not None for one in decisions):  # null: infinite
            raise _SteeredError("an exit rule decided about this run")


def _response(found: Fields, requests: dict[str, Fields], unusable: Unusable) -> LogLine:
    """A response of OpenAI's form: with its request, or with the number of one."""
    asked = found.inner("request") if "request" in found else found
    if "custom_id" in found and "messages" not in asked and "prompt" not in asked:
        known = requests.get(str(found.values["custom_id"]))
        if known is None:
            _unusable("no request with this custom_id")
        asked = known
    asked = asked.inner("body") if "body" in asked else asked
    answered = found
    for name in ("response", "body"):
        answered = answered.inner(name) if name in answered and answered.values[name] is not None else answered
    if not answered.values.get("choices"):
        _unusable("a response without choices (an error?)")
    if answered.values.get("reasonctl"):  # ours: what the controller did, choice by choice
        for one in answered.inner("reasonctl").items("choices"):
            _check_own(Fields.of(one, found.where))
    choices = answered.items("choices")
    choice = Fields.of(choices[0], f"the first choice in {found.where}")
    line = _line(found, asked, choice.inner("message") if "message" in choice else choice, choice)
    for _ in choices[1:]:
        unusable.count("a further choice for the same prompt", found.where)
    return line


def _conversation(found: Fields) -> tuple[Message, ...]:
    """The messages before the completion; () where the prompt is one text."""
    if found.values.get("messages") is None:
        return ()
    turns = [Fields.of(one, f"a message in {found.where}") for one in found.items("messages", 4096)]
    messages = tuple(Message(turn.text("role"), _content(turn)) for turn in turns)
    if not messages:
        _unusable("no prompt")
    if messages[-1].role != "user":
        _unusable("a conversation whose last message isn't the user's")
    return messages


def _question(conversation: Sequence[Message]) -> str:
    """What the last message asks; with more turns before it than instructions, all of them as a text."""
    *before, last = conversation
    if all(message.role in _INSTRUCTIONS for message in before):
        return last.content
    return "\n\n".join(f"{message.role}: {message.content}" for message in conversation)


def _content(message: Fields) -> str:
    """A message's text, which may come in parts."""
    content = message.values.get("content")
    if message.values.get("tool_calls") or message.values.get("function_call"):
        _unusable("a call of a tool")
    if not isinstance(content, list):
        return _optional(message, "content") or ""
    parts = [Fields.of(part, f"the content of {message.where}") for part in content]
    if any(part.values.get("type", "text") != "text" for part in parts):
        _unusable("a message with more than text")
    return "".join(_optional(part, "text") or "" for part in parts)


def _completion(said: Fields) -> str | None:
    """The text of a completion, without reasoning that stands apart."""
    if said.values.get("tool_calls"):
        _unusable("a call of a tool")
    if isinstance(said.values.get("content"), list):
        return _content(said)
    return _optional(said, "completion", "text", "content", "response_text")


def _finish(found: Fields) -> Finish:
    """How a run ended: by `finish_reason`, or as llama.cpp's server (`stop_type`) and others call it."""
    reason = _optional(found, "finish_reason", "stop_type", "stop_reason")
    finish = _FINISHES.get(reason or "")
    if finish is None:
        _unusable("no finish reason" if reason is None else f"the finish reason {reason[:40]!r}")
    # vLLM puts the stop string, or its token, next to the finish reason.
    if finish == "stop" and found.values.get("finish_reason") and isinstance(found.values.get("stop_reason"), str):
        _unusable("a stop string, not the model, ended this run")
    return finish


def _optional(found: Fields, *names: str) -> str | None:
    """The first of these fields that isn't missing or null, as text."""
    return next((found.text(name) for name in names if found.values.get(name) is not None), None)


def _unusable(reason: str) -> NoReturn:
    raise _UnusableError(reason)
