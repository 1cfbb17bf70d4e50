"""Finds a template's thinking markers in what it renders: turns whose reasoning and answer are known words.

The template writes three pieces around these words: the opening marker before the reasoning, the suffix between
reasoning and answer, and what ends a message. The words are given under every name that templates use, since no name
is standard.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from .finding import NAMED_TAG, TAG, Finding, as_marker, common_start, fits, from_tag, openers
from .markers import Markers

QUESTION = "Qquestionz"
THOUGHT = "Qthoughtz"
ANSWER = "Qanswerz"
_LATER = "Qlaterz"
_TOOL = "qtoolz"

_LONGEST_SUFFIX = 200
_ON = {"enable_thinking": True, "thinking": True, "reasoning": True}
_OFF = dict.fromkeys(_ON, False)
_NAMED = {**_ON, "thinking_mode": "enabled", "reasoning_effort": "high"}

_NAMES = (
    "reasoning_content",
    "reasoning",
    "thinking",
    "reasoning_text",
    "thought",
    "thoughts",
    "think",
    "analysis",
    "tool_plan",
)
"""Where messages keep their reasoning; the first three are usual."""
_DETAILS = [{"type": "reasoning.text", "text": THOUGHT}]
_CALLS = [{"id": "call00001", "type": "function", "function": {"name": _TOOL, "arguments": {"x": 1}}}]

Message = dict[str, Any]


def _answers() -> dict[str, list[Message]]:
    """Turns of the assistant after a question, by name: everything that follows it."""
    named = {"role": "assistant", "content": ANSWER, **dict.fromkeys(_NAMES, THOUGHT), "reasoning_details": _DETAILS}
    text = {"type": "text", "text": ANSWER}
    calls = {**named, "tool_calls": _CALLS}
    contents: dict[str, Any] = {
        "plain": ANSWER,
        "parts": [{"type": "thinking", "thinking": THOUGHT}, text],
        "nested parts": [{"type": "thinking", "thinking": [{"type": "text", "text": THOUGHT}]}, text],
        "reasoning parts": [{"type": "reasoning", "text": THOUGHT, "reasoning": THOUGHT}, text],
        "blocks": {"blocks": [{"type": "thoughts", "text": THOUGHT}, {"type": "response", "text": ANSWER}]},
    }
    inline = {
        "inline": f"<think>{THOUGHT}</think>{ANSWER}",
        "spaced": f"<think>\n\n{THOUGHT}\n\n</think>\n\n{ANSWER}",
    }
    return {
        "named": [named],
        **{name: [_said(content)] for name, content in contents.items()},
        **{name: [{"role": "assistant", "content": ANSWER, name: THOUGHT}] for name in _NAMES[:3]},
        "named, later turn": [named, {"role": "user", "content": _LATER}],
        "named, call": [calls],
        "named, call and result": [calls, {"role": "tool", "tool_call_id": "call00001", "content": "1"}],
        **{name: [_said(content)] for name, content in inline.items()},
    }


def _said(content: Any) -> Message:
    return {"role": "assistant", "content": content}


TURNS = _answers()


@dataclass(frozen=True)
class Setting:
    """What is around a turn: the conversation's beginning, and how thinking is switched."""

    beginning: list[Message]
    """The messages up to the question, which is the last."""
    switches: dict[str, Any]
    """Variables by which templates switch thinking."""
    turns: tuple[str, ...] = tuple(TURNS)
    """Names of the turns that are rendered."""


_USER: list[Message] = [{"role": "user", "content": QUESTION}]
_SYSTEM: list[Message] = [{"role": "system", "content": "detailed thinking on /think"}, *_USER]
_PARTS: list[Message] = [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}]

SETTINGS = (
    Setting(_USER, _ON),
    Setting(_USER, {}),
    Setting(_USER, _NAMED),
    Setting(_SYSTEM, _ON),
    Setting(_PARTS, _ON),
    Setting(_USER, _OFF, ("plain",)),
)
"""The first in which something is found counts; in the last, thinking is off."""


class Shown(NamedTuple):
    """What a template renders in one setting; None where it refuses."""

    prompt: str | None
    """A question with the generation prompt after it."""
    turns: dict[str, str | None]
    """A question with an assistant's turn after it, by the turn's name."""


def requests(tokens: dict[str, str]) -> list[dict[str, Any]]:
    """The variables of all renderings, in the order that `shown` reads."""
    common = {"bos_token": "", "eos_token": "", "tools": None, "documents": None, **tokens}
    made = []
    for setting in SETTINGS:
        variables = {**common, **setting.switches}
        made.append({**variables, "messages": setting.beginning, "add_generation_prompt": True})
        for name in setting.turns:
            messages = [*setting.beginning, *TURNS[name]]
            made.append({**variables, "messages": messages, "add_generation_prompt": False})
    return made


def shown(texts: tuple[str | None, ...]) -> list[Shown]:
    """The renderings by setting."""
    given = iter(texts)
    return [Shown(next(given), {name: next(given) for name in setting.turns}) for setting in SETTINGS]


def read_turns(settings: list[Shown]) -> Finding | None:
    """Markers, suffix and who opens, from the first turn that shows a reasoning in front of its answer."""
    return next(_findings(settings), None)


def empty_suffix(settings: list[Shown], markers: Markers) -> str | None:
    """The suffix, where turns without a reasoning begin with an empty span.

    One half of the white space inside the span belongs to the opening marker, the other to the closing marker.
    """
    for setting in settings:
        turn = setting.turns["plain"]
        header, answered, _ = after_question(turn or "").partition(ANSWER)
        front, closed, rest = header.rpartition(markers.close)
        if not answered or not closed or len(rest) > _LONGEST_SUFFIX:
            continue
        bare = front.rstrip()
        space = front[len(bare) :] if bare.endswith(markers.open.rstrip()) else ""
        return space[(len(space) + 1) // 2 :] + markers.close + rest
    return None


def opened_by_prompt(settings: list[Shown], markers: Markers) -> bool:
    """Whether a generation prompt ends in the opening marker."""
    opening = markers.open.rstrip()
    return any((setting.prompt or "").rstrip().endswith(opening) for setting in settings)


def _findings(settings: list[Shown]) -> Iterator[Finding]:
    for setting in settings:
        for name, turn in setting.turns.items():
            # Inline text that comes out as it went in shows nothing of the template's own.
            if turn is None or name in ("plain", "spaced") or (name == "inline" and turn != setting.turns["spaced"]):
                continue
            found = _read(setting, turn)
            if found is not None:
                yield found


def _read(setting: Shown, turn: str) -> Finding | None:
    """What one turn shows; None if it shows no reasoning between a question and an answer."""
    question, thought = turn.find(QUESTION), turn.find(THOUGHT)
    if not 0 <= question < thought or turn.count(THOUGHT) != 1:
        return None
    header = turn[question + len(QUESTION) : thought]
    rest, answered, _ = turn[thought + len(THOUGHT) :].partition(ANSWER)
    if _TOOL in rest:
        closing = _closing_tag(rest)
        suffix = "" if closing is None else closing + _answer_header(setting)
    elif answered:
        closing = suffix = rest
    else:
        return None
    close = _close(closing or "", header)
    # A message written down as data has quotes around its texts.
    if close is None or (header[-1:] in ("'", '"') and rest.startswith(header[-1:])):
        return None
    if suffix.count(close) != 1 or len(suffix) > _LONGEST_SUFFIX:
        return None
    opening = _opening(setting, turn[:thought], header, close)
    markers = Markers(opening or (*openers(close), "<think>")[0], close)
    prompt = (setting.prompt or "").rstrip()
    if opening and prompt.endswith(opening.rstrip()):
        return Finding(markers, suffix, "prompt", _ends_messages(setting, close))
    return Finding(markers, suffix, "model" if opening else "start", _ends_messages(setting, close))


def _closing_tag(rest: str) -> str | None:
    """What closes thinking in front of a tool call: the first tag, which nothing but white space precedes."""
    tag = TAG.search(rest)
    return rest[: tag.end()] if tag and not rest[: tag.start()].strip() else None


def _close(closing: str, header: str) -> str | None:
    """The closing marker in the text that closes thinking: its first tag, else its first line.

    A name after the tag that the opening text has too belongs to it: `<|close|>think<|sep|>`.
    """
    tag = TAG.search(closing)
    lines = closing.strip().splitlines()
    close = tag.group() if tag else lines[0] if lines else ""
    named = NAMED_TAG.match(closing, tag.start()) if tag else None
    if named and NAMED_TAG.search(header) and f"{named['name']}{named['end']}" in header:
        close = named.group()
    return close if fits(close) else None


def _answer_header(setting: Shown) -> str:
    """What a turn without a reasoning has in front of its answer, beyond the generation prompt."""
    prompt, turn = setting.prompt, setting.turns["plain"]
    if prompt is None or turn is None or not turn.startswith(prompt):
        return ""
    header, answered, _ = turn[len(prompt) :].partition(ANSWER)
    return header if answered else ""


def _opening(setting: Shown, written: str, header: str, close: str) -> str | None:
    """The opening marker; None if neither the turn nor the prompt has one.

    Args:
        setting: What else is rendered there.
        written: The turn up to its reasoning.
        header: The same from the question on.
        close: The closing marker.
    """
    prompt, plain = setting.prompt or "", setting.turns["plain"] or ""
    for text in (header, after_question(prompt)):
        named = NAMED_TAG.fullmatch(close)
        paired = [tag for tag in NAMED_TAG.finditer(text) if named and tag["name"] == named["name"]]
        if paired:
            return paired[-1].group()
        for tag in openers(close):
            if tag in text:
                return from_tag(text, tag)
    # No tag is named like the closing one: what the turn has beyond the prompt, or the prompt beyond another turn.
    shared = common_start(prompt, written)
    beyond = [written[len(shared) :], prompt[len(shared) :]] if QUESTION in shared else []
    if plain:
        beyond.append(prompt[len(common_start(prompt, plain)) :])
    marker = next((as_marker(text) for text in beyond if text.strip()), "")
    return marker if fits(marker) else None


def _ends_messages(setting: Shown, close: str) -> bool:
    """Whether the closing marker also stands right after the question."""
    return after_question(setting.prompt or "").startswith(close)


def after_question(text: str) -> str:
    """What a rendering holds after its question."""
    return text.rpartition(QUESTION)[2]
