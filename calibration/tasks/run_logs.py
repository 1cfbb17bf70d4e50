"""Reads logs of runs that were made elsewhere: prompts with completions, in the forms in which they are usually kept.

- Traces of ours, with their question, as `ctl run --json` prints them.
- Plain logs: `prompt` or `messages`, with `completion`, `text`, or `reasoning_content` and `content`.
- OpenAI's: a request and its response in one line, or the two files of a batch, joined by `custom_id`.

A line that can't be used is counted by reason and named by its number. Only a file that can't be read is an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NoReturn

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
    "max_tokens": "length",
}
"""What engines say of how a run ended."""


@dataclass(frozen=True, slots=True)
class LogLine:
    """One run of a log, as texts."""

    where: str
    """Its file and the number of its line."""
    prompt: str
    """The user's question, or what the template makes of it."""
    text: str
    """The completion; without the reasoning, where that stands apart."""
    finish: Finish
    """How it ended."""
    reasoning: str | None = None
    """The reasoning, where the log keeps it apart. None: it is in `text`, if there is any."""
    tokens: tuple[int, ...] | None = None
    """The completion's tokens. None: the log has its text only."""


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


class _UnusableError(Exception):
    """A line can't be used; its text says why."""


def read_log(paths: Sequence[str]) -> RunLog:
    """Read one log.

    Args:
        paths: Its files, such as the two of a batch.

    Raises:
        ControllerError: A file can't be read, or there are too many lines.
    """
    unusable = Unusable()
    requests: dict[str, Fields] = {}
    runs: list[Fields] = []
    for found in _objects(paths, unusable):
        if "custom_id" in found and "body" in found and "response" not in found:
            requests[str(found.values["custom_id"])] = found
        else:
            runs.append(found)
        if len(runs) + len(requests) + unusable.total > MOST_LINES:
            raise ControllerError(f"the log has more than {MOST_LINES:,} lines; give a part of it")
    lines = []
    for found in runs:
        try:
            lines.append(_run(found, requests))
        except _UnusableError as error:
            unusable.count(str(error), found.where)
        except ControllerError:
            unusable.count("a field of another type", found.where)
    return RunLog(", ".join(map(file_name, paths)), lines, unusable)


def _objects(paths: Sequence[str], unusable: Unusable) -> Iterator[Fields]:
    for path in paths:
        for number, data in raw_lines(path, "a log of runs"):
            where = f"{Path(path).name}:{number}"
            try:
                yield Fields.of(parse(data, where), where)
            except ControllerError:
                unusable.count("no JSON object", where)


def _run(found: Fields, requests: dict[str, Fields]) -> LogLine:
    """The run of a line that is no bare request."""
    if "response" in found or "choices" in found:
        return _response(found, requests)
    if "prompt_tokens" in found and "tokens" in found:
        return _trace(found)
    reasoning = _optional(found, "reasoning_content", "reasoning")
    text = _optional(found, "completion", "text", "content", "response_text")
    if text is None and reasoning is None:
        _unusable("no completion")
    finish = _finish(_optional(found, "finish_reason", "stop_reason"))
    return LogLine(found.where, _prompt(found), text or "", finish, reasoning)


def _trace(found: Fields) -> LogLine:
    """A trace of ours, which has tokens."""
    if (
        _optional(found, "closed_by") in ("exit", "budget")
        or found.values.get("forced")
        or found.values.get("reopened")
    ):
        _unusable("the controller changed this run")
    tokens = [token for token in found.items("tokens") if type(token) is int and token >= 0]
    if len(tokens) != len(found.items("tokens")):
        _unusable("tokens that are no token ids")
    finish = _finish(_optional(found, "finish_reason"))
    return LogLine(found.where, _prompt(found), _optional(found, "text") or "", finish, tokens=tuple(tokens))


def _response(found: Fields, requests: dict[str, Fields]) -> LogLine:
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
    choice = Fields.of(answered.items("choices")[0], f"the first choice in {found.where}")
    said = choice.inner("message") if "message" in choice else choice
    reasoning = _optional(said, "reasoning_content", "reasoning")
    text = _optional(said, "content", "text")
    if text is None and reasoning is None:
        _unusable("no completion")
    return LogLine(found.where, _prompt(asked), text or "", _finish(_optional(choice, "finish_reason")), reasoning)


def _prompt(found: Fields) -> str:
    """The question: a text of its own, or the one message of the user."""
    messages = found.values.get("messages")
    if messages is None:
        prompt = _optional(found, "question", "prompt")
    else:
        turns = [Fields.of(one, f"a message in {found.where}") for one in found.items("messages", 4096)]
        if [turn.values.get("role") for turn in turns] != ["user"]:
            _unusable("a conversation other than one message of the user")
        prompt = _content(turns[0])
    if prompt is None or not prompt.strip():
        _unusable("no prompt")
    return prompt


def _content(message: Fields) -> str | None:
    """A message's text, which may come as a list of one part."""
    content = message.values.get("content")
    if isinstance(content, list) and len(content) == 1:
        message = Fields.of(content[0], f"the content of {message.where}")
        return _optional(message, "text")
    return _optional(message, "content")


def _finish(reason: str | None) -> Finish:
    finish = _FINISHES.get(reason or "")
    if finish is None:
        _unusable("no finish reason" if reason is None else f"the finish reason {reason[:40]!r}")
    return finish


def _optional(found: Fields, *names: str) -> str | None:
    """The first of these fields that isn't missing or null, as text."""
    return next((found.text(name) for name in names if found.values.get(name) is not None), None)


def _unusable(reason: str) -> NoReturn:
    raise _UnusableError(reason)
