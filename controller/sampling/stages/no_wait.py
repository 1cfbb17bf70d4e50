"""NoWait (arXiv 2506.08343): reflection words are never written while the model thinks.

The paper bans every token that holds one of them, filtered by hand. Here the words are found in the text, however it is
split into tokens: " Wait" and "Wait," are banned, "wait" after "a" is not, and "atively" is after "Altern".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np

from ...core.tokenizer import Tokenizer
from ...thinking.cues import LETTERS
from ..candidates import Candidates, Indices
from ..row import Row
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
        banned = _vocabulary(tokenizer, len(candidates.logits)).banned(self.words, _word_at_end(tokenizer, row.tokens))
        banned = banned[~np.isin(banned, list(row.context.eos))]
        logits = candidates.logits.copy()
        logits[banned] = -np.inf
        return Candidates(logits)


def _is_word(word: str) -> bool:
    return re.fullmatch(f"[{LETTERS}]+", word) is not None


def _word_at_end(tokenizer: Tokenizer, tokens: Sequence[int]) -> str:
    """The letters that the text ends in."""
    word = ""
    for token in reversed(tokens):
        text = tokenizer.text(token)
        found = _TAIL.search(text)
        assert found is not None
        word = found.group() + word
        if len(found.group()) < len(text):
            break
    return word.lower()


class _Vocabulary:
    """Where words stand in the tokens of one model; read once."""

    def __init__(self, tokenizer: Tokenizer, size: int) -> None:
        self._texts = [tokenizer.text(token).lower() for token in range(size)]
        self._by_head: dict[str, list[int]] = {}
        for token, text in enumerate(self._texts):
            found = _HEAD.match(text)
            assert found is not None
            self._by_head.setdefault(found.group(), []).append(token)
        self._known: dict[tuple[tuple[str, ...], str], Indices] = {}

    def banned(self, words: tuple[str, ...], end: str) -> Indices:
        """Tokens that write one of the words after a text that ends in the letters `end`."""
        folded = tuple(word.lower() for word in words)
        # What none of the words begins with leads to none of them.
        end = end if any(word.startswith(end) for word in folded) else "-"
        key = folded, end
        if key not in self._known:
            inner = re.compile(f"(?<=[^{LETTERS}])(?:{'|'.join(folded)})(?![{LETTERS}])")
            found = {token for token, text in enumerate(self._texts) if inner.search(text)}
            for word in folded:
                if word.startswith(end) and word != end:
                    found.update(self._by_head.get(word[len(end) :], ()))
            self._known[key] = np.array(sorted(found), dtype=np.intp)
        return self._known[key]


_vocabularies: WeakKeyDictionary[Tokenizer, _Vocabulary] = WeakKeyDictionary()


def _vocabulary(tokenizer: Tokenizer, size: int) -> _Vocabulary:
    """What was read of a tokenizer; kept as long as it lives."""
    known = _vocabularies.get(tokenizer)
    if known is None:
        known = _Vocabulary(tokenizer, size)
        _vocabularies[tokenizer] = known
    return known
