"""What a text gives as its answer; the same reading for graders and for the agreement of trial answers."""

from __future__ import annotations

import re

from .markers import Markers

_STATED = re.compile(r"(?:answer\s*(?:is|:)|answer\s+(?:to|for|of)\b[^\n]*?\bis\b|####)\s*[:=]?\s*(.+)", re.IGNORECASE)
_BOXED = re.compile(r"\\boxed\s*\{")


def after_thinking(text: str, markers: Markers | None) -> str:
    """The text behind the last closing marker; empty if thinking never closed, all of it if there are no markers.

    >>> after_thinking("1 + 1 = 2</think> 2. ", Markers("<think>", "</think>"))
    '2.'
    """
    if markers is None:
        return text.strip()
    _, closed, answer = text.rpartition(markers.close)
    return answer.strip() if closed else ""


def stated_answer(text: str) -> str:
    r"""The last answer that a text states: \boxed{...}, "answer is ...", "#### ...", else its last line.

    >>> stated_answer("So 3. The answer is 74."), stated_answer(r"= \boxed{\frac{1}{2}} done"), stated_answer("")
    ('74', '\\frac{1}{2}', '')
    >>> stated_answer("First,\n15 - 3 = **12**."), stated_answer("x =")
    ('12', 'x =')
    >>> stated_answer("The final answer to the problem 7 - 4 + 2 is 5.")
    '5'
    """
    boxes = [match.end() for match in _BOXED.finditer(text)]
    if boxes:
        return _braced(text, boxes[-1])
    stated = _STATED.findall(text)
    lines = stated or [line for line in text.splitlines() if line.strip()]
    return _plain(lines[-1]) if lines else ""


def _braced(text: str, start: int) -> str:
    depth = 1
    for end in range(start, len(text)):
        depth += (text[end] == "{") - (text[end] == "}")
        if depth == 0:
            return text[start:end].strip()
    return text[start:].strip()


def _plain(text: str) -> str:
    # "2 + 2 = 4" states 4.
    stated = text.rpartition("=")[2] if text.rpartition("=")[2].strip("*$. ") else text
    return stated.strip().strip("*$ ").rstrip(".").strip("*$ ")
