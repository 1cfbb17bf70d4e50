r"""How the letter of an answer is read from its text, as a person reads it.

What is labelled (`Answer: C`, `\boxed{C}`) counts before what a sentence says (`the answer is C`), and that before a
mention. All patterns are bounded, so that reading takes time linear in the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

_WORDS = r"[A-Za-z0-9]"
_CUE = re.compile(
    rf"(?<!{_WORDS})(?:answer|(?:correct|right|best|final|my)\s{{1,3}}(?:option|choice|letter|one))(?!{_WORDS})"
    r"(?:\s{1,3}(?:to|for)\s{1,3}(?:the|this)\s{1,3}question|\s{1,3}here)?",
    re.IGNORECASE,
)
"""What a statement begins with."""
_LABEL = re.compile(r"[*_`\"'\s]{0,5}(?::|=|->|\u2192|\n)[\s*_`\"':=>]{0,8}")
"""What makes a cue a label: a colon, an arrow, a new line."""
_VERB = re.compile(
    r"[*_`\"']{0,4}\s{1,3}(?:is|was|would be|should be|must be|has to be|will be|remains)(?![A-Za-z])[\s*_:`\"']{0,8}"
    r"(?:(?:clearly|therefore|thus|probably|definitely|likely|simply|indeed|then|hence)\s{1,3}){0,2}",
    re.IGNORECASE,
)
"""What makes a cue a sentence."""
_MENTION = re.compile(r"[*_`\"']{0,4}\s{1,3}")
"""What makes a cue a mention."""
_CHOSEN = re.compile(
    rf"(?<!{_WORDS})(?:I|we)(?:\s|\s?['\u2019]d\s|\s?['\u2019]ll\s)(?:(?:would|will)\s)?"
    r"(?:choose|pick|select|go\s(?:with|for))(?![A-Za-z])\s{0,3}",
    re.IGNORECASE,
)
_BOXED = re.compile(r"\\boxed\s{0,2}\{")
_CORRECT = re.compile(
    r"(?<![A-Za-z0-9'\u2019-])([A-J])[*_)\]\"'.]{0,3}\s{1,3}(?:is|must be|would be)\s{1,3}"
    r"(?:the\s{1,3})?(?:only\s{1,3})?(?:correct|right|best\s{1,3}(?:answer|option|choice))(?![A-Za-z])"
)
_MEMBER = re.compile(r"(?<!\\)[\"']answer[\"']\s{0,4}:\s{0,4}", re.IGNORECASE)
"""The member of a JSON object."""
_LEAD = re.compile(
    r"(?:(?:the\s{1,3})?(?:option|choice|letter|answer)(?![A-Za-z])|\\(?:boxed|text|textbf|mathrm|mathbf)\s?\{"
    r"|[\s*_`\"'(\[{$<:#-]){0,10}",
    re.IGNORECASE,
)
"""What may stand before the letter."""
_LETTER = re.compile(r"([A-Ja-j])(?![A-Za-z0-9]|['\u2019-][A-Za-z])([)\]}*_`\"'$>.,;:]{0,6})")
_LAST_LINE = re.compile(r"[\s*_`\"'(\[{$]{0,8}([A-J])[\s*_`\"')\]}$.]{0,8}")
_BARE = re.compile(r"[\s*_`\"'(\[]{0,8}([A-J])(?:[.):*_\]\"'`]|\s*(?:\n|$))")
_FILLS = frozenset(("that", "the", "my", "correct", "right", "best", "final"))
_OPENS = frozenset(("if", "whether", "unless", "suppose", "assume", "assuming", "why", "not"))
_OPINES = (frozenset(("might", "may", "could", "would")), frozenset(("think", "say", "expect")))
_UNDECIDED = re.compile(
    r"\s{0,3}(?:\?|(?:/|&|\+|(?:,\s{0,3})?(?:and|or))\s{0,3}(?:option\s{1,3})?[*_(\"']{0,3}[A-J](?![A-Za-z0-9'\u2019-])"
    r"|,\s{0,3}[(]?[A-J][)]?\s{0,3}(?:[,.\n]|$|and\b|or\b))"
)
_DENIED = re.compile(
    r"\s{1,3}(?:(?:is|was|would\sbe)\s{1,3}(?:not|wrong|incorrect|false|out)|(?:isn|wasn)['\u2019]t)\b", re.IGNORECASE
)
_GOES_ON = re.compile(
    r"\s{1,3}(?:(?:because|since|as|for|due|it|this|that|which|given|by|with|is|was|has|in|so|and|but|while)(?![A-Za-z])"
    r"|[^a-z\s])"
)
"""What may follow `A` or `I` that is a letter, not a word."""
_SAYS_MORE = re.compile(r"\s{1,3}(?:[a-z]|is\b)")


_EDGES = " \t*_`\"'.}),"
"""What a content may stand between."""


class Statement(NamedTuple):
    """One place where an answer states a letter."""

    rank: int
    """0: labelled; 1: a sentence; 2: a mention."""
    place: int
    """Where it begins in the text."""
    letter: str
    """The letter; "" where several are named."""


def statements(text: str, options: Sequence[str]) -> Iterator[Statement]:
    """All statements of a text, in no order.

    Args:
        text: The answer.
        options: The options' contents.
    """
    for cue in _CUE.finditer(text):
        if _supposed(text, cue.start()):
            continue
        for rank, pattern in enumerate((_LABEL, _VERB, _MENTION)):
            joint = pattern.match(text, cue.end())
            if joint:
                yield from _stated(text, joint.end(), options, rank, cue.start())
                break
    for rank, pattern in ((0, _BOXED), (1, _CHOSEN)):
        for cue in pattern.finditer(text):
            yield from _stated(text, cue.end(), options, rank, cue.start())
    for found in _CORRECT.finditer(text):
        if not _supposed(text, found.start()):
            yield Statement(1, found.start(), found[1])
    whole = text.rstrip()
    last = whole.rfind("\n") + 1
    if _LAST_LINE.fullmatch(whole, last):
        yield from _stated(text, last, options, 1, last)


def members(text: str, options: Sequence[str]) -> Iterator[Statement]:
    """What the member `answer` of a JSON object states; the rest of the object may be broken."""
    for cue in _MEMBER.finditer(text):
        if text[cue.end() : cue.end() + 1] in ("'", '"'):
            yield from _stated(text, cue.end() + 1, options, 0, cue.start())


def bare(text: str) -> str:
    """The letter that an answer begins with as an option does; "": it begins otherwise."""
    found = _BARE.match(text)
    return found[1] if found else ""


def _supposed(text: str, at: int) -> bool:
    """Whether what begins here is supposed or denied, not stated: after `if the`, `one might think that`."""
    words = text[max(0, at - 48) : at].lower().split()
    while words and words[-1] in _FILLS:
        words.pop()
    may, think = _OPINES
    return bool(words) and (words[-1] in _OPENS or (len(words) > 1 and words[-1] in think and words[-2] in may))


def _stated(text: str, at: int, options: Sequence[str], rank: int, place: int) -> Iterator[Statement]:
    """What stands after a cue: a letter, or an option's content as a whole."""
    lead = _LEAD.match(text, at)
    start = lead.end() if lead else at
    whole = _content(text, at, options) if rank < 2 else ""
    if whole:
        yield Statement(rank, place, whole)
        return
    found = _LETTER.match(text, start)
    if found is None:
        return
    rest = text[found.end() : found.end() + 48]
    letter, closed = found[1].upper(), bool(found[2]) or not rest.strip() or rest.startswith("\n")
    if _DENIED.match(rest):
        return
    if _UNDECIDED.match(text[found.end(1) : found.end() + 48]) or _UNDECIDED.match(rest):
        yield Statement(rank, place, "")
    elif (closed or _is_letter(found[1], rest, options)) and (rank < 2 or not _SAYS_MORE.match(rest)):
        yield Statement(rank, place, letter)


def _is_letter(seen: str, rest: str, options: Sequence[str]) -> bool:
    """Whether a letter with a word after it is one, and not an article or a pronoun."""
    if seen.upper() not in "AI":
        return True
    if not seen.isupper():
        return False
    number = ord(seen) - ord("A")
    own = options[number].casefold() if number < len(options) else ""
    return bool(_GOES_ON.match(rest)) or bool(own and rest.strip().casefold().startswith(own[:40]))


def _content(text: str, at: int, options: Sequence[str]) -> str:
    """The letter of the one option whose content is the rest of the line; "": none or several."""
    line = text[at : at + 400].split("\n", 1)[0].strip(_EDGES).casefold()
    if len(line) < 2 and line in "abcdefghij":
        return ""
    same = [
        i for i, one in enumerate(options) if line[:1] in one[:16].casefold() and one.strip(_EDGES).casefold() == line
    ]
    return chr(ord("A") + same[0]) if len(same) == 1 else ""
