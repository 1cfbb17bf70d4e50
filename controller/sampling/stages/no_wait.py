"""NoWait (arXiv 2506.08343): reflection words are never written while the model thinks.

The paper bans every token that holds one of them, filtered by hand. Here the words are found in the text, however it is
split into tokens: " Wait" and "Wait," are banned, "wait" after "a" is not, and "atively" is after "Altern".
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from ...core.token_text import LONGEST_CHARACTER
from ...core.tokenizer import Tokenizer
from ...thinking.cues import LETTERS
from ..candidates import Candidates, Indices
from ..draw import Row
from ..stage import require
from .penalties import Constraint

REFLECTION = (
    "wait",
    "alternatively",
    "hmm",
    "but",
    "however",
    "alternative",
    "another",
    "check",
    "oh",
    "maybe",
    "verify",
    "other",
    "again",
    "now",
    "ah",
    "any",
)
"""The paper's words; its "double-check" can't be written without "check"."""

_HEAD = re.compile(f"[{LETTERS}]*")
_TAIL = re.compile(f"[{LETTERS}]*$")
_FIRST_BYTES = frozenset(range(0xC3, 0xCA))
"""First bytes of the letters beyond ASCII, which have two."""
_NEXT_BYTES = range(0x80, 0xC0)
"""Later bytes of a character."""


@dataclass(frozen=True)
class NoWait(Constraint):
    """Bans whole words, in any case, while thinking; the answer may hold them.

    An exit rule on cue words would never be asked under it, so the two exclude each other.
    """

    name = "no_wait"
    reads_text = True
    phased = True
    suppresses_cues = True
    words: tuple[str, ...] = REFLECTION
    """Each of letters only."""

    def __post_init__(self) -> None:
        rule = 'words of letters, such as ["wait","hmm"]'
        require(bool(self.words) and all(map(_is_word, self.words)), "no_wait's words", self.words, rule)

    def apply(self, candidates: Candidates, row: Row) -> Candidates:
        if row.phase != "think":
            return candidates
        tokenizer = row.context.read("no_wait")
        vocabulary = _vocabulary(tokenizer, len(candidates.logits))
        banned = vocabulary.banned(self.words, _end_of(tokenizer, row.tokens, max(map(len, self.words))))
        banned = banned[~np.isin(banned, list(row.context.eos))]
        logits = candidates.logits.copy()
        logits[banned] = -np.inf
        return Candidates(logits)


def _is_word(word: str) -> bool:
    return re.fullmatch(f"[{LETTERS}]+", word) is not None


class _End(NamedTuple):
    """What a text ends in, as far as the next token's words depend on it."""

    letters: str
    """The letters at its end, in lower case."""
    begun: bytes
    """The first byte of a letter that is not whole yet."""


def _end_of(tokenizer: Tokenizer, tokens: Sequence[int], longest: int) -> _End:
    """The end of a text, with one letter more than the longest word if there are so many."""
    data = b""
    for token in reversed(tokens):
        data = tokenizer.bytes_of(token) + data
        if len(data) > LONGEST_CHARACTER * (longest + 2):
            break
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    found = _TAIL.search(decoder.decode(data))
    assert found is not None
    begun = decoder.getstate()[0]
    if begun and begun[0] not in _FIRST_BYTES:
        return _End("-", b"")  # a character that is no letter
    return _End(found.group().lower(), begun)


class _Vocabulary:
    """Where words stand in the tokens of one model; read once."""

    def __init__(self, tokenizer: Tokenizer, size: int) -> None:
        pieces = [tokenizer.bytes_of(token) for token in range(size)]
        self._texts = [piece.decode("utf-8", "replace").lower() for piece in pieces]
        self._by_head: dict[str, list[int]] = {}
        for token, text in enumerate(self._texts):
            found = _HEAD.match(text)
            assert found is not None
            self._by_head.setdefault(found.group(), []).append(token)
        self._completing = {token: piece for token, piece in enumerate(pieces) if piece[:1] and piece[0] in _NEXT_BYTES}
        """Tokens that begin with a later byte of a character."""
        self._known: dict[tuple[tuple[str, ...], _End], Indices] = {}

    def banned(self, words: tuple[str, ...], end: _End) -> Indices:
        """Tokens that write one of the words after a text with this end."""
        folded = tuple(word.lower() for word in words)
        # What none of the words begins with leads to none of them.
        if not any(word.startswith(end.letters) for word in folded):
            end = _End("-", end.begun)
        key = folded, end
        if key not in self._known:
            found = self._whole(folded, "-" if end.begun else end.letters)
            if end.begun:
                found = (found - self._completing.keys()) | self._after(folded, end)
            self._known[key] = np.array(sorted(found), dtype=np.intp)
        return self._known[key]

    def _whole(self, words: tuple[str, ...], letters: str) -> set[int]:
        """The tokens after a text that ends with a whole character."""
        inner = re.compile(f"(?<=[^{LETTERS}])(?:{'|'.join(words)})(?![{LETTERS}])")
        found = {token for token, text in enumerate(self._texts) if inner.search(text)}
        for word in words:
            if word.startswith(letters) and word != letters:
                found.update(self._by_head.get(word[len(letters) :], ()))
        return found

    def _after(self, words: tuple[str, ...], end: _End) -> set[int]:
        """The tokens that make the begun letter whole, and write a word with it or after it."""
        pattern = re.compile(f"(?<![{LETTERS}])(?:{'|'.join(words)})(?![{LETTERS}])")
        leads_nowhere = end.letters == "-"
        before = "" if leads_nowhere else end.letters
        found = set()
        for token, piece in self._completing.items():
            text = before + (end.begun + piece).decode("utf-8", "replace").lower()
            for match in pattern.finditer(text):
                if match.end() > len(before) and (match.start() > 0 or not leads_nowhere):
                    found.add(token)
        return found


_vocabularies: WeakKeyDictionary[Tokenizer, _Vocabulary] = WeakKeyDictionary()


def _vocabulary(tokenizer: Tokenizer, size: int) -> _Vocabulary:
    """What was read of a tokenizer; kept as long as it lives."""
    known = _vocabularies.get(tokenizer)
    if known is None:
        known = _Vocabulary(tokenizer, size)
        _vocabularies[tokenizer] = known
    return known
