"""Chat answers that call a tool: the thoughts before the call go into `content`, and `arguments` holds the call alone.

The library takes all that was written for the arguments, as its grammar governs all; under a controller it governs the
answer.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Any

from reasonctl.controller import Markers, Trace


def split_thoughts(text: str, markers: Markers, opened: bool) -> tuple[str, str]:
    """(thoughts with their markers, what is written after them) of a text.

    >>> split_thoughts('so 3</think>\\n{"n": 3}', Markers("<think>", "</think>"), opened=True)
    ('so 3</think>\\n', '{"n": 3}')

    Args:
        text: What the model has written so far.
        markers: The texts that open and close thinking.
        opened: The prompt has opened thinking.
    """
    begun = text.lstrip()
    if not opened and not begun.startswith(markers.open):
        return "", text
    thoughts, closed, rest = text.partition(markers.close)
    answer = rest.lstrip()
    return thoughts + closed + rest[: len(rest) - len(answer)], answer


def opened_by_prompt(trace: Trace | None) -> bool:
    """The run's first token was a thought already; no run has begun where there is no trace."""
    return trace is not None and bool(trace.spans) and trace.spans[0].start == 0


def _calls(message: dict[str, Any]) -> list[dict[str, Any]]:
    """The entries of a message or a delta that hold arguments: the library writes one call in two places."""
    calls = [call["function"] for call in message.get("tool_calls") or () if "function" in call]
    return calls + ([message["function_call"]] if message.get("function_call") else [])


def sorted_answer(made: Any, markers: Markers | None, trace: Callable[[], Trace | None]) -> Any:
    """A chat answer, or a stream of its chunks, whose tool calls hold no thoughts. Others stay as they are.

    Args:
        made: What the library's chat call returned.
        markers: The texts that mark thinking. None: there are no thoughts.
        trace: Gives the record of the answer's run, once it has begun.
    """
    if markers is None:
        return made
    if not isinstance(made, dict):
        return _sorted_chunks(made, markers, trace) if isinstance(made, Iterator) else made
    for choice in made.get("choices", ()):
        message = choice.get("message", {})
        for call in (calls := _calls(message)):
            thoughts, call["arguments"] = split_thoughts(call["arguments"], markers, opened_by_prompt(trace()))
            if thoughts and call is calls[0]:
                message["content"] = (message.get("content") or "") + thoughts
    return made


def _sorted_chunks(
    chunks: Iterator[Any], markers: Markers, trace: Callable[[], Trace | None]
) -> Generator[Any, None, None]:
    """Chunks of a stream; one that holds the end of the thoughts becomes two."""
    text, thought, called = "", 0, 0  # what was written, and how much of both parts was given out
    opened: bool | None = None
    for chunk in chunks:
        delta = chunk["choices"][0].get("delta", {}) if chunk.get("choices") else {}
        calls = _calls(delta)
        if not calls:
            yield chunk
            continue
        opened = opened_by_prompt(trace()) if opened is None else opened
        text += calls[0]["arguments"]
        thoughts, answer = split_thoughts(text, markers, opened)
        if thoughts[thought:]:
            bare = {**delta, "content": thoughts[thought:], "tool_calls": None, "function_call": None}
            yield {**chunk, "choices": [{**chunk["choices"][0], "delta": bare}]}
        if answer[called:]:
            for call in calls:
                call["arguments"] = answer[called:]
            yield chunk
        thought, called = len(thoughts), len(answer)
