"""Where an exit may happen: cue words, breaks, and every k tokens. Owns how cues are named and what text they match."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from .errors import ControllerError

_LETTER = "A-Za-z\u00c0-\u024f"
"""Latin letters only: in scripts without spaces a cue may touch its neighbours."""

_NAMED = {"paragraph": r"\n\n", "sentence": r"(?<=[.!?])[ \n]"}
"""Cues that are not words; a paragraph's break may be longer than what is matched."""

_EVERY = re.compile(r"every\s*(?:\(|$)")
"""What is meant as `every(k)`, well written or not."""

TAIL = 96
"""Characters kept behind the end of the text; longer than any marker or cue."""


class Cues:
    """Where an exit may happen: words (case-insensitive, word-bounded), `paragraph`, `sentence`, `every(k)` tokens.

    A word that ends in a doubled letter matches longer runs of it too ("hmm" finds "Hmmm").
    LYNX (arXiv 2512.05325) matches substrings; "await" and "Waiting" are not cues here. `every(k)` stands behind every
    k-th thinking token; it has no text of its own, and a cue that has one goes first where both meet.

    >>> Cues(["wait", "hmm"]).pattern.findall("await. Wait, Hmmm")
    ['Wait', 'Hmmm']
    >>> Cues(["wait", "every(64)"]).every
    64
    """

    def __init__(self, names: Sequence[str]) -> None:
        if not names:
            raise ControllerError("no cue was given; name at least one word, 'paragraph', 'sentence' or 'every(64)'")
        self.names = tuple(names)
        spaced = [name for name in names if _EVERY.match(name)]
        if len(spaced) > 1:
            raise ControllerError(f"the cues hold {' and '.join(map(repr, spaced))}; give one every(k)")
        self.spaced = spaced[0] if spaced else ""
        self.every = _every(self.spaced) if spaced else 0
        """Thinking tokens between two cues of this kind; 0 = there is none."""
        self._words = {name.lower() for name in names if name not in _NAMED and name != self.spaced}
        for word in self._words:
            if not re.fullmatch(f"[{_LETTER}]+", word) or len(word) > TAIL // 4:
                raise ControllerError(
                    f"cue {word!r} is no word; use letters only, or 'paragraph', 'sentence' or 'every(64)'"
                )
        words = [re.escape(w) + ("+" if len(w) > 1 and w[-1] == w[-2] else "") for w in sorted(self._words)]
        parts = [f"(?<![{_LETTER}])(?:{'|'.join(words)})(?![{_LETTER}])"] if words else []
        parts += [_NAMED[name] for name in names if name in _NAMED]
        self.pattern = re.compile("|".join(parts) or r"(?!)", re.IGNORECASE)
        self._run = re.compile(f"(?<![{_LETTER}])[{_LETTER}]+$")
        self._whole = re.compile("|".join(words), re.IGNORECASE) if words else None
        self._prefixes = {word[:n] for word in self._words for n in range(1, len(word) + 1)}

    @property
    def words(self) -> frozenset[str]:
        """The cues that are words, in lower case."""
        return frozenset(self._words)

    def name(self, text: str) -> str:
        """The declared name of a matched text."""
        if text.isspace():
            return "paragraph" if text == "\n\n" else "sentence"
        folded = text.lower()
        return (
            folded if folded in self._words else next(w for w in self._words if folded == w.ljust(len(folded), w[-1]))
        )

    def open_word(self, tail: str) -> tuple[int, bool]:
        """(length, complete) of the word at the end of `tail` if it may still become a cue, else (0, False)."""
        found = self._run.search(tail)
        if not found or not self._whole:
            return 0, False
        word = found.group()
        complete = bool(self._whole.fullmatch(word))
        return (len(word), complete) if complete or word.lower() in self._prefixes else (0, False)

    def open_break(self, tail: str) -> int:
        """Length of a half-written paragraph break at the end of `tail`."""
        return 1 if "paragraph" in self.names and tail.endswith("\n") and not tail.endswith("\n\n") else 0


def _every(name: str) -> int:
    found = re.fullmatch(r"every\(([1-9][0-9]{0,8})\)", name)
    if found is None:
        raise ControllerError(f"cue {name!r} needs a whole number of tokens, at least 1: 'every(64)'")
    return int(found.group(1))


@dataclass(frozen=True)
class Cue:
    """A cue in a run: tokens first..last hold it (absolute indices); `before` = text ahead of it in `first`.

    `every(k)` holds no token: first = last + 1.
    """

    name: str
    index: int
    first: int
    last: int
    before: str
