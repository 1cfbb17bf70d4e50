"""Where an exit may happen: cue words, breaks, and every k tokens. This file names cues and finds their texts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from ..core.errors import ControllerError

LETTERS = "A-Za-z\u00c0-\u024f"
"""Latin letters only: in scripts without spaces a cue may touch its neighbours."""

_NAMED = {"paragraph": r"\n\n", "sentence": r"(?<=[.!?])[ \n]"}
"""Cues that are not words, by precedence. A paragraph's break may be longer than its match."""

_EVERY = re.compile(r"every\s*(?:\(|$)")
"""A name that is meant as `every(k)`, even if it is written wrongly."""

LONGEST_CUE = 32
"""Tokens that a cue may have while it stands in the cache next to a trial that takes its place."""

TAIL = 96
"""Characters at the end of a text that are stored; more than any marker or cue has."""


class Cues:
    """Where an exit may happen: words (case-insensitive, word-bounded), `paragraph`, `sentence`, `every(k)` tokens.

    A word that ends in a doubled letter matches longer runs of it too ("hmm" finds "Hmmm").
    LYNX (arXiv 2512.05325) matches substrings; "await" and "Waiting" are not cues here.

    `every(k)` stands after every k-th thinking token and has no text. A cue with a text goes first where both meet.

    Each kind is searched for by itself. So a larger set of cues finds the same places under the same names.

    >>> Cues(["wait", "hmm"]).pattern.findall("await. Wait, Hmmm")
    ['Wait', 'Hmmm']
    >>> Cues(["wait", "every(64)"]).every
    64
    """

    def __init__(self, names: Sequence[str]) -> None:
        if not names:
            raise ControllerError("no cue was given; name at least one word, 'paragraph', 'sentence' or 'every(64)'")
        spaced = [name for name in names if _EVERY.match(name)]
        if len(spaced) > 1:
            raise ControllerError(f"the cues hold {' and '.join(map(repr, spaced))}; give one every(k)")
        self.spaced = spaced[0] if spaced else ""
        self.every = _every(self.spaced) if spaced else 0
        """Thinking tokens between two cues of this kind; 0 = there is none."""
        self.names = tuple(name if name in _NAMED or name == self.spaced else name.lower() for name in names)
        self._words = sorted({name for name in self.names if name not in _NAMED and name != self.spaced})
        for word in self._words:
            if not re.fullmatch(f"[{LETTERS}]+", word) or len(word) > TAIL // 4:
                raise ControllerError(
                    f"cue {word!r:.60} is no word of up to {TAIL // 4} Latin letters; "
                    "use one, or 'paragraph', 'sentence' or 'every(64)'"
                )
        words = [_regex(word) for word in self._words]
        parts = [f"(?<![{LETTERS}])(?:{'|'.join(words)})(?![{LETTERS}])"] if words else []
        parts += [regex for name, regex in _NAMED.items() if name in names]
        self.kinds = tuple(re.compile(part, re.IGNORECASE) for part in parts)
        """One pattern for the words, one for each other cue that has a text, in the order of their precedence."""
        self.open_words = tuple(sorted(self._words, key=len, reverse=True))
        """The words, the longest first: a word that may still go on is searched for by itself."""
        apart = (re.compile(f"(?<![{LETTERS}]){_regex(word)}(?![{LETTERS}])", re.I) for word in self.open_words)
        self.open_kinds = (*apart, *self.kinds[bool(words) :])
        """`kinds` with a pattern for each of `open_words`."""
        self.pattern = re.compile("|".join(parts) or r"(?!)", re.IGNORECASE)
        self._breaks = int(bool(words)) if "paragraph" in names else None
        """Which of `kinds` finds paragraphs; None: none does."""
        self._run = re.compile(f"(?<![{LETTERS}])[{LETTERS}]+$")
        self._whole = re.compile("|".join(words), re.IGNORECASE) if words else None
        self._prefixes = {word[:n] for word in self._words for n in range(1, len(word) + 1)}

    @property
    def words(self) -> frozenset[str]:
        """The cues that are words, in lower case."""
        return frozenset(self._words)

    @property
    def have_text(self) -> bool:
        """Some of the cues have a text; `every(k)` has none."""
        return bool(self.kinds)

    def names_of(self, text: str) -> tuple[str, ...]:
        """The declared names of a matched text, the best one first: "hmmm" may be both `hmmm` and `hmm`."""
        if text.isspace():
            return ("paragraph" if text == "\n\n" else "sentence",)
        found = [word for word in self._words if re.fullmatch(_regex(word), text, re.IGNORECASE)]
        return tuple(sorted(found, key=len, reverse=True))

    def open_word(self, tail: str) -> tuple[int, bool]:
        """(length, complete) of the word at the end of `tail` if it may still become a cue, else (0, False)."""
        found = self._run.search(tail)
        if not found or not self._whole:
            return 0, False
        word = found.group()
        complete = bool(self._whole.fullmatch(word))
        return (len(word), complete) if complete or word.lower() in self._prefixes else (0, False)

    def open_break(self, tail: str, length: int, scanned: Sequence[int]) -> int:
        """Length of a half-written paragraph break at the end of a text.

        Args:
            tail: The end of the text.
            length: Characters of the whole text.
            scanned: Characters in which each of `kinds` was found or ruled out already.
        """
        if self._breaks is None or not tail.endswith("\n"):
            return 0
        # Breaks don't overlap: of three line breaks the third may begin another one.
        return int(scanned[self._breaks] < length)


def _regex(word: str) -> str:
    return re.escape(word) + ("+" if len(word) > 1 and word[-1] == word[-2] else "")


def _every(name: str) -> int:
    found = re.fullmatch(r"every\(([1-9][0-9]{0,8})\)", name)
    if found is None:
        raise ControllerError(f"cue {name!r} needs a whole number of tokens, at least 1: 'every(64)'")
    return int(found.group(1))


@dataclass(frozen=True)
class Cue:
    """A cue in a run. Its text stands in the tokens `first` to `last`; `every(k)` has no text: first = last + 1."""

    names: tuple[str, ...]
    """The declared cues that begin here and end in token `last`."""
    index: int
    """Number of the cue in its run, from 0."""
    first: int
    """Absolute index of the token in which its text begins."""
    last: int
    """Absolute index of the token in which its text ends."""
    before: str
    """Text of token `first` before the cue."""
    also: tuple[Cue, ...] = ()
    """Cues that end in token `last` too and begin later, in order. A set of cues without `names` acts on them."""

    @property
    def name(self) -> str:
        """The cue as it is called: the first of its names."""
        return self.names[0]


class Found(NamedTuple):
    """A cue and its place among the cues of one row: they are sorted by `start`, then by `kind`."""

    start: int
    """Number of its first character in the text."""
    kind: int
    """Which of `Cues.kinds` found it; every(k) comes last."""
    cue: Cue
    """The cue itself."""


def first_of(row: list[Found]) -> Cue | None:
    """The first of the cues that ended in one row; its `also` has those that a smaller set of cues would act on."""
    cues: list[Cue] = []
    for *_, cue in sorted(row, key=lambda found: found[:2]):
        if cues and (cues[-1].first, cues[-1].before) == (cue.first, cue.before):
            cues[-1] = replace(cues[-1], names=cues[-1].names + cue.names)
        else:
            cues.append(cue)
    return replace(cues[0], also=tuple(cues[1:])) if cues else None
