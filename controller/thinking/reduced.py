"""A Span without the part of its past that can't matter any more, so that alike positions of many runs are equal.

What a Span answers depends on little of its text: a word, a paragraph's break or a marker that has begun, and one
character before it. `reduced` keeps that, and counts tokens and characters from there.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Hashable
from copy import copy
from dataclasses import replace

from ..core.token_text import TextDecoder, TokenText
from .cues import LETTERS, Cue, Found
from .span import Place, Span

_LETTER = re.compile(f"[{LETTERS}]", re.IGNORECASE)
_SENTENCE_ENDS = ".!?"
_RARE = [chr(code) for code in range(0x24F, 0xC0, -1) if chr(code).islower()]
"""Letters for one that stands in no cue."""
_NOWHERE = Place("before", 0, None)


def reduced(span: Span) -> Span:
    """A Span that answers every later token as this one does, with positions that are smaller by a constant.

    It can't be rewound: its past is gone.
    """
    text = span._text
    made = copy(span)
    made._text, chars = _reduced_text(text, _open_chars(span), span)
    tokens = text.next - made._text.next
    made._scanned = [max(0, count - chars) for count in span._scanned]
    made._searched = max(0, span._searched - chars)
    made._sought = max(0, span._sought - chars) if span.phase == "answer" else 0
    made._begun = max(0, span._begun - chars) if span._at_once else 0
    made._waiting = [Found(found.start - chars, found.kind, moved(found.cue, -tokens)) for found in span._waiting]
    made._before, made.closed, made.unopened = _NOWHERE, None, False
    made.number = min(span.number, 1)
    made.opened = None if span.opened is None else made._text.next - _thought(span, text.next - span.opened)
    return made


def key_of(span: Span) -> Hashable:
    """Equal for reduced Spans that answer every later token alike."""
    text = span._text
    return (
        (span.phase, span.number, span.opened, span._at_once, span._begun, span._blocked, span._owed, span._due),
        (span._forced, span._sought, span._searched, span._cues is None, tuple(span._scanned), tuple(span._waiting)),
        (text.tail, text.total, text.begun, text.inside, tuple(text._whole), frozenset(text._split)),
    )


def moved(cue: Cue, tokens: int) -> Cue:
    """The cue so many tokens later."""
    also = tuple(moved(other, tokens) for other in cue.also)
    return replace(cue, first=cue.first + tokens, last=cue.last + tokens, also=also)


def _thought(span: Span, tokens: int) -> int:
    """Thinking tokens, as far as they say when every(k) falls due next."""
    every = 0 if span._cues is None else span._cues.every
    return (tokens - 1) % every + 1 if every and tokens > 0 else 0


def _open_chars(span: Span) -> int:
    """Characters at the end of the text of which something that has begun may still be made."""
    text, cues, found = span._text, span._cues, 0
    if cues is not None:
        found = max(cues.open_word(text.tail)[0], cues.open_break(text.tail, text.total, span._scanned))
    if span._markers is not None:
        found = max(found, _begun_marker(text.tail, span._markers.open), _begun_marker(text.tail, span._markers.close))
    return max(found, text.total - span._begun) if span._at_once else found


def _begun_marker(tail: str, marker: str) -> int:
    """Characters of the longest beginning of a marker, not all of it, in which the text ends."""
    return next((n for n in range(min(len(marker) - 1, len(tail)), 0, -1) if tail.endswith(marker[:n])), 0)


def _reduced_text(text: TokenText, chars: int, span: Span) -> tuple[TokenText, int]:
    """The text from the token on in which its last `chars` characters begin; and how many characters are gone."""
    first = text.total - chars
    token = max(0, bisect_right(text._whole, first) - 1)
    while token and token in text._split:
        token -= 1
    start = max(min(first, text._whole[token]), text.offset)
    written = text.tail[start - text.offset :]
    before = text.tail[start - text.offset - 1 : start - text.offset] if start > text.offset else ""
    before = _class_of(before, span)
    made = copy(text)
    made.start = 0
    made.tail = before + written
    made.total = len(made.tail)
    dropped = text.total - made.total
    made._whole = [max(count - dropped, 0) for count in text._whole[token:]]
    made._split = {i - token for i in text._split if i >= token}
    made._decoder = _copied(text._decoder)
    return made, dropped


def _class_of(char: str, span: Span) -> str:
    """A character that stands for all that no cue and no marker tells from it, where another text follows it."""
    if not char:
        return ","  # at the beginning of a text nothing precedes, as after a comma
    markers = "" if span._markers is None else span._markers.open + span._markers.close
    if _LETTER.match(char):
        # A word goes on in which no cue is left. Its last letter alone might begin one.
        words = "".join(() if span._cues is None else span._cues.words) + markers.lower()
        return next(letter for letter in _RARE if letter not in words)
    made = "." if char in _SENTENCE_ENDS else "\t" if char.isspace() else ","
    return char if made in markers or char in markers else made


def _copied(decoder: TextDecoder) -> TextDecoder:
    made = copy(decoder)
    made._decoder = type(decoder._decoder)("replace")
    made._decoder.setstate(decoder._decoder.getstate())
    return made
