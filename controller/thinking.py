"""Follows the text of one run: where thinking opens and closes, and which cues stand in it.

Owns markers, cues and their mapping from characters to tokens; decides nothing.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from .errors import ControllerError
from .policy import Phase

_LETTER = "A-Za-z\u00c0-\u024f"
"""Latin letters only: in scripts without spaces a cue may touch its neighbours."""

_NAMED = {"paragraph": r"\n\n", "sentence": r"(?<=[.!?])[ \n]"}
"""Cues that are not words; a paragraph's break may be longer than what is matched."""

_TAIL = 96
"""Characters kept behind the end of the text; longer than any marker or cue."""


class Tokenizer(Protocol):
    """Token ids to text and back, the same on every backend."""

    def text(self, token: int) -> str:
        """The token decoded alone; broken UTF-8 as U+FFFD, special tokens as they are written."""

    def decode(self, tokens: Sequence[int]) -> str:
        """The tokens' text, special tokens as they are written."""

    def encode(self, text: str) -> list[int]:
        """Tokens of a text inside a sequence: markers are recognised, no BOS is added."""


@dataclass(frozen=True)
class Markers:
    """The texts that open and close the thinking span."""

    open: str
    close: str

    def __post_init__(self) -> None:
        for text in (self.open, self.close):
            if not 0 < len(text) < _TAIL // 2:
                raise ControllerError(f"a thinking marker is {text!r}; it must have 1 to {_TAIL // 2 - 1} characters")


class Cues:
    """Where an exit may happen: words (case-insensitive, word-bounded), `paragraph`, `sentence`.

    A word that ends in a doubled letter matches longer runs of it too ("hmm" finds "Hmmm").
    LYNX (arXiv 2512.05325) matches substrings; "await" and "Waiting" are not cues here.

    >>> Cues(["wait", "hmm"]).pattern.findall("await. Wait, Hmmm")
    ['Wait', 'Hmmm']
    """

    def __init__(self, names: Sequence[str]) -> None:
        if not names:
            raise ControllerError("no cue was given; name at least one word, 'paragraph' or 'sentence'")
        self.names = tuple(names)
        self._words = {name.lower() for name in names if name not in _NAMED}
        for word in self._words:
            if not re.fullmatch(f"[{_LETTER}]+", word) or len(word) > _TAIL // 4:
                raise ControllerError(f"cue {word!r} is no word; use letters only, or 'paragraph' or 'sentence'")
        words = [re.escape(w) + ("+" if len(w) > 1 and w[-1] == w[-2] else "") for w in sorted(self._words)]
        parts = [f"(?<![{_LETTER}])(?:{'|'.join(words)})(?![{_LETTER}])"] if words else []
        parts += [_NAMED[name] for name in names if name in _NAMED]
        self.pattern = re.compile("|".join(parts), re.IGNORECASE)
        self._run = re.compile(f"(?<![{_LETTER}])[{_LETTER}]+$")
        self._whole = re.compile("|".join(words), re.IGNORECASE) if words else None
        self._prefixes = {word[:n] for word in self._words for n in range(1, len(word) + 1)}

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


@dataclass(frozen=True)
class Cue:
    """A cue in a run: tokens first..last hold it (absolute indices); `before` = text ahead of it in `first`."""

    name: str
    index: int
    first: int
    last: int
    before: str


class Span:
    """Where one run stands: before, in or after its thinking span; and the cues in that span.

    A model without markers thinks until it is made to stop: the span is the whole completion.
    Characters are counted over the last ones of the prompt and everything after it; `_ends[i]` is
    the count before token `_start + i`.
    """

    def __init__(self, tokenizer: Tokenizer, markers: Markers | None, cues: Cues | None) -> None:
        self._tokenizer, self._markers, self._cues = tokenizer, markers, cues
        self._texts: dict[int, str] = {}
        self.phase: Phase = "think" if markers is None else "before"
        self.met = 0
        """Cues met so far."""
        self.at_cue = False
        """A cue ends, or may end, in the last token: its row's hidden state may be wanted."""
        self._waiting: Cue | None = None
        self._start = self._total = self._scanned = 0
        self._tail, self._ends = "", [0]

    def begin(self, prompt: Sequence[int]) -> None:
        """Read the prompt: a template may have opened the span."""
        text = "".join(map(self._text, prompt)) if self._markers else ""
        self._begin_at(prompt, text[-_TAIL:])
        if self._markers and text.rfind(self._markers.open) > text.rfind(self._markers.close):
            self.phase = "think"

    def close(self) -> None:
        """The controller closed the span."""
        self.phase = "answer"
        self.stop_cues()

    def stop_cues(self) -> None:
        """No cue is wanted any more; the phase is still followed."""
        self._cues, self._waiting, self.at_cue = None, None, False

    def push(self, token: int) -> Cue | None:
        """Take the next token in; give the cue that ended in the token *before* it, if any."""
        text = self._text(token)
        self._total += len(text)
        self._ends.append(self._total)
        self._tail = (self._tail + text)[-(_TAIL + len(text)) :]
        ready, self._waiting, self.at_cue = self._waiting, None, False
        if self.phase == "answer":
            return ready
        end = self._follow(len(text)) if self._markers else self._total
        if self._cues is None or self.phase == "before":
            return ready
        return self._scan(end, ready)

    def held(self) -> int:
        """Number of last tokens that an exit at an unfinished cue would take back."""
        if self._cues is None or self.phase != "think":
            return 0
        now = self._start + len(self._ends) - 1
        if self._waiting is not None:
            return now - self._waiting.first
        length = max(self._cues.open_word(self._tail)[0], self._cues.open_break(self._tail))
        return min(now - self._token_at(self._total - length), now - self._start) if length else 0

    def _begin_at(self, prompt: Sequence[int], tail: str) -> None:
        self._start, self._tail = len(prompt), tail
        self._total = self._scanned = len(tail)
        self._ends = [len(tail)]

    def _text(self, token: int) -> str:
        text = self._texts.get(token)
        if text is None:
            text = self._texts[token] = self._tokenizer.text(token)
        return text

    def _follow(self, fresh: int) -> int:
        """Update the phase; the character count at which thinking ends so far."""
        assert self._markers is not None
        offset = self._total - len(self._tail)
        if self.phase == "before":
            where = self._tail.find(self._markers.open, max(0, len(self._tail) - fresh - len(self._markers.open)))
            if where < 0:
                return self._total
            self.phase, self._scanned = "think", offset + where + len(self._markers.open)
        window = len(self._tail) - fresh - len(self._markers.close)
        where = self._tail.find(self._markers.close, max(0, window))
        if where < 0:
            return self._total
        self.phase = "answer"
        return offset + where

    def _scan(self, end: int, ready: Cue | None) -> Cue | None:
        """The cue that ended in the token before the last one; one in the last token waits for its row.

        Both may happen in one push ("Wait" + "\\n\\n"). `ready` waited since the push before.
        """
        assert self._cues is not None
        offset, now = self._total - len(self._tail), self._start + len(self._ends) - 2
        while self._waiting is None:
            found = self._cues.pattern.search(self._tail, max(0, self._scanned - offset), end - offset)
            if found is None:
                break
            if found.end() == len(self._tail) and not found.group().isspace():
                # The word may go on ("Wait" -> "Waiting"): its row is kept, nothing is decided.
                self.at_cue = True
                break
            self._scanned = offset + found.end()
            cue = self._cue(found, offset)
            if cue.last < now - 1 or (cue.last == now - 1 and ready is not None):
                continue  # its row is gone or taken: two cues in one token, or text that took several tokens to appear
            self.met += 1
            if cue.last == now:
                self._waiting, self.at_cue = cue, True
            else:
                ready = cue
        return ready

    def _cue(self, found: re.Match[str], offset: int) -> Cue:
        assert self._cues is not None
        start = offset + found.start()
        first, last = self._token_at(start), self._token_at(offset + found.end() - 1)
        before = self._tail[self._ends[first - self._start] - offset : found.start()]
        return Cue(self._cues.name(found.group()), self.met, first, last, before)

    def _token_at(self, char: int) -> int:
        return self._start + bisect_right(self._ends, char) - 1
