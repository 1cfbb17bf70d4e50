"""The lettered options of a multiple-choice question: where they stand in a text, and the tokens of their letters."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from ..core.decode import Floats
from ..core.errors import ControllerError
from ..core.tokenizer import Tokenizer
from .candidates import Indices

LETTERS = "ABCDEFGHIJ"
"""The letters that options can have."""
AROUND = " \t\n\"'(*`"
"""What may stand between the cue and the letter, and in the letter's token."""
_AFTER = AROUND + ".):,"
_HEAD = r"(?:[-*][ \t]+)?(?:\*\*)?\(?[A-J][.):]"
_MORE = rf"(?:\n(?:[ \t]*\n)*[ \t]+(?!{_HEAD})\S[^\n]*)*"
"""Further lines of an option: indented ones, also after empty ones, that begin no option."""
_LINE = rf"^[ \t]*(?:[-*][ \t]+)?(?:\*\*)?\(?([A-J])[.):](?:\*\*)?[ \t]+(\S[^\n]*{_MORE})"
_MEMBER = r'"([A-J])":[ \t]*"((?:[^"\\\n]|\\.)*)"'
_OPTION = re.compile(f"{_LINE}|{_MEMBER}", re.MULTILINE)
"""A line of a list or of Markdown with its further lines, or a member of a JSON object."""
_TEMPLATE = re.compile(
    r"<[|\uff5c][^<>\n]{1,40}>|<[^<>|\n]{1,40}[|\uff5c]>|<(?:[a-z]{1,12}:)?(?:end_of_[a-z]{1,20}|/s|eos|sep)>"
    r"|\[/INST\]|\[e~\["
)
"""What a chat template writes after a message, in the last option's line: no part of the option."""
_ROLE = re.compile(r"[ \t]{1,4}(?:#{1,3}[ \t]{1,4})?[A-Z][A-Za-z]{0,19}[:\uff1a]\s{0,8}\Z")
"""The same in plain text, at the end of the prompt: Vicuna's ` ASSISTANT:`. One word, as more could be the option's."""
_LONGEST_ROLE = 48
"""Most characters of such a role, with what stands around it."""


class OptionSpan(NamedTuple):
    """One option's content."""

    first: int
    """Where it begins in the text."""
    end: int
    """Where it ends."""


def option_spans(text: str) -> list[OptionSpan]:
    """Where the contents of the last list of options stand: lettered from A on, two or more. Empty: there is none.

    Indented lines go on an option. A chat template's marker ends it, and so does a role at the end of the text.

    >>> [text[a:b] for text in ("Q?\\nA. x\\nB. y",) for a, b in option_spans(text)]
    ['x', 'y']
    >>> [text[a:b] for text in ('{"A": "x", "B": "y"}',) for a, b in option_spans(text)]
    ['x', 'y']
    >>> [text[a:b] for text in ("A. x\\nB. New York ASSISTANT:",) for a, b in option_spans(text)]
    ['x', 'New York']
    >>> option_spans("B. y"), option_spans("")
    ([], [])
    """
    last: list[OptionSpan] = []
    run: list[OptionSpan] = []
    written = len(text.rstrip())
    for found in _OPTION.finditer(text):
        group = 1 if found[1] else 3
        if found[group] == "A":
            run = []
        if len(run) < len(LETTERS) and found[group] == LETTERS[len(run)]:
            first = found.start(group + 1)
            content = _TEMPLATE.split(found[group + 1], maxsplit=1)[0]
            if found.end() >= written and (role := _ROLE.search(content, max(0, len(content) - _LONGEST_ROLE))):
                content = content[: role.start()]
            run.append(OptionSpan(first, first + len(content.rstrip())))
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


def letter_tokens(tokenizer: Tokenizer, options: int) -> list[Indices]:
    """The tokens that write each letter, alone or with space and quotes around it: `A`, ` A`, `"A"`.

    Args:
        tokenizer: The model's.
        options: How many letters.

    Raises:
        ControllerError: A letter has no token.
    """
    known = _letters.get(tokenizer)
    if known is None:
        found: list[list[int]] = [[] for _ in LETTERS]
        for token, piece in tokenizer.pieces():
            text = piece.decode("utf-8", "replace").lstrip(AROUND).rstrip(_AFTER) if len(piece) < 5 else ""
            if len(text) == 1 and text in LETTERS:
                found[LETTERS.index(text)].append(token)
        known = _letters[tokenizer] = [np.array(ids, dtype=np.intp) for ids in found]
    if any(not len(ids) for ids in known[:options]):
        raise ControllerError(f"a letter of {LETTERS[:options]} has no token in this model; options need letters")
    return known[:options]


_letters: WeakKeyDictionary[Tokenizer, list[Indices]] = WeakKeyDictionary()


def letter_logits(logits: Floats, tokens: Sequence[Indices]) -> Floats:
    """The logit of each letter, over all tokens that write it. Shape (letters,), float64."""
    parts = [logits[ids].astype(np.float64) for ids in tokens]
    return np.array([np.logaddexp.reduce(one) if len(one) else -np.inf for one in parts])
