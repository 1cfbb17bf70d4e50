"""The lettered options of a multiple-choice question, where they stand in a text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

LETTERS = "ABCDEFGHIJ"
"""The letters that options can have."""
_LINE = r"^[ \t]*(?:[-*][ \t]+)?(?:\*\*)?\(?([A-J])[.):](?:\*\*)?[ \t]+(\S[^\n]*)"
_MEMBER = r'"([A-J])":[ \t]*"((?:[^"\\\n]|\\.)*)"'
_OPTION = re.compile(f"{_LINE}|{_MEMBER}", re.MULTILINE)
"""A line of a list or of Markdown, or a member of a JSON object."""


class OptionSpan(NamedTuple):
    """One option's content."""

    first: int
    """Where it begins in the text."""
    end: int
    """Where it ends."""


def option_spans(text: str) -> list[OptionSpan]:
    """Where the contents of the last list of options stand: lettered from A on, two or more. Empty: there is none.

    >>> [text[a:b] for text in ("Q?\\nA. x\\nB. y",) for a, b in option_spans(text)]
    ['x', 'y']
    >>> [text[a:b] for text in ('{"A": "x", "B": "y"}',) for a, b in option_spans(text)]
    ['x', 'y']
    >>> option_spans("B. y"), option_spans("")
    ([], [])
    """
    last: list[OptionSpan] = []
    run: list[OptionSpan] = []
    for found in _OPTION.finditer(text):
        group = 1 if found[1] else 3
        if found[group] == "A":
            run = []
        if len(run) < len(LETTERS) and found[group] == LETTERS[len(run)]:
            first = found.start(group + 1)
            run.append(OptionSpan(first, first + len(found[group + 1].rstrip())))
            last = run if len(run) > 1 else last
        else:
            run = []
    return last


def with_contents(text: str, spans: Sequence[OptionSpan], contents: Sequence[str]) -> str:
    """The text with other contents in its options.

    >>> with_contents("A. x\\nB. y", option_spans("A. x\\nB. y"), ["y", "x"])
    'A. y\\nB. x'
    """
    parts, at = list[str](), 0
    for (first, end), content in zip(spans, contents, strict=True):
        parts += [text[at:first], content]
        at = end
    return "".join([*parts, text[at:]])
