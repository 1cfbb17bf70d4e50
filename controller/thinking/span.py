"""Follows the text of one run: where thinking opens and closes, and which cues stand in it.

Owns markers and the mapping from characters to tokens; decides nothing.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from ..core.tokenizer import Tokenizer
from .cues import TAIL, Cue, Cues, Found, first_of
from .markers import Markers, Phase

LONGEST_CHARACTER = 4
"""Bytes, and so tokens, of a character in UTF-8."""


@dataclass(frozen=True)
class MarkerPosition:
    """Where a closing marker, whole or half-written, begins: in token `first`, behind the text `before`.

    spaced: what stands in front of it ends in a space, or is nothing.
    """

    first: int
    before: str
    spaced: bool


class Span:
    """Where one run stands: before, in or after its thinking span; and the cues in that span.

    A model without markers thinks until it is made to stop: the span is the whole completion.
    Characters are counted over the last ones of the prompt and everything after it; `_ends[i]` is
    the count before token `_start + i`.
    """

    opened: int | None = None
    """Absolute index of the first thinking token that is generated."""
    closed: MarkerPosition | None = None
    """The last token completed a closing marker; set after the controller's own close too: a second one."""

    def __init__(self, tokenizer: Tokenizer, markers: Markers | None, cues: Cues | None) -> None:
        self._tokenizer, self._markers, self._cues = tokenizer, markers, cues
        self._texts: dict[int, str] = {}
        self._recent: list[int] = []
        """As many of the last tokens as a character may be split over."""
        self.phase: Phase = "think" if markers is None else "before"
        self.at_cue = False
        """A cue ends, or may end, in the last token: its row's hidden state may be wanted."""
        self._waiting: list[Found] = []
        """Cues that end in the last token; they are reported once its row is there."""
        self._owed = self._due = False
        self._forced = False
        self._start = self._total = 0
        self._scanned = [0] * (len(cues.kinds) if cues else 0)
        """Characters searched so far, by kind of cue."""
        self._tail, self._ends = "", [0]

    def begin(self, prompt: Sequence[int]) -> None:
        """Read the prompt: a template may have opened the span."""
        text = "".join(map(self._text, prompt)) if self._markers else ""
        self._begin_at(prompt, text[-TAIL:])
        if self._markers and text.rfind(self._markers.open) > text.rfind(self._markers.close):
            self.phase = "think"
        if self.phase == "think":
            self.opened = len(prompt)

    def close(self, length: int) -> None:
        """The controller closed the span: the answer begins at token `length`."""
        self.phase, self._forced, self.closed = "answer", True, None
        self._start, self._tail = length, ""
        self._total = 0
        self._ends = [0]
        self.stop_cues()

    def rewind(self, tokens: Sequence[int]) -> None:
        """Forget what came behind `tokens`, the run's tokens up to a point before the last closing marker."""
        del self._ends[len(tokens) - self._start + 1 :]
        self._total, i = self._ends[-1], len(tokens)
        texts: list[str] = []
        while i and sum(map(len, texts)) < min(TAIL, self._total):
            i -= 1
            texts.insert(0, self._text(tokens[i]))
        self._tail = "".join(texts)[-min(TAIL, self._total) :] if self._total else ""
        self._scanned = [min(count, self._total) for count in self._scanned]
        self._waiting, self._due, self.at_cue, self.closed = [], False, False, None
        self._recent = list(tokens[-LONGEST_CHARACTER:])
        self.phase = "answer" if self._forced else "think"

    def stop_cues(self) -> None:
        """No cue is wanted any more; the phase is still followed."""
        self._cues, self._waiting, self._due, self.at_cue = None, [], False, False

    def push(self, token: int) -> Cue | None:
        """Take the next token in; give the cue that ended in the token *before* it, if any. The loop numbers it."""
        text, self._recent = self._text(token), [*self._recent[1 - LONGEST_CHARACTER :], token]
        self._total += len(text)
        self._ends.append(self._total)
        self._tail = (self._tail + text)[-(TAIL + len(text)) :]
        ready, self._waiting, self.at_cue, self.closed = self._waiting, [], False, None
        if self.phase == "answer":
            if self._forced and self._markers:
                self._follow_close(self._markers, len(text))
            return first_of(ready)
        end = self._follow(len(text)) if self._markers else self._total
        if self._cues is None or self.phase == "before":
            return first_of(ready)
        self._scan(end, ready)
        self._count()
        return first_of(ready)

    def half_closed(self) -> MarkerPosition | None:
        """A closing marker that is half-written at the end of the text."""
        if self._markers is None or self.phase == "before":
            return None
        close, written = self._markers.close, self._total - self._ends[0]
        for length in range(min(len(close) - 1, written), 0, -1):
            if self._tail.endswith(close[:length]):
                return self._mark(self._total - length)
        return None

    def end(self) -> MarkerPosition:
        """The last token, as the place where thinking ends: an end-of-sequence."""
        char = self._ends[-2] - (self._total - len(self._tail))
        return MarkerPosition(self._start + len(self._ends) - 2, "", char <= 0 or self._tail[char - 1].isspace())

    @property
    def whole(self) -> bool:
        """The text doesn't end inside a character."""
        return not (self._tail.endswith("\ufffd") and self._tokenizer.decode(self._recent).endswith("\ufffd"))

    def held(self) -> int:
        """Number of last tokens that an exit at an unfinished cue would take back."""
        if self._cues is None or self.phase != "think":
            return 0
        now = self._start + len(self._ends) - 1
        if self._waiting:
            return now - min(found.cue.first for found in self._waiting)
        length = max(self._cues.open_word(self._tail)[0], self._cues.open_break(self._tail))
        return min(now - self._token_at(self._total - length), now - self._start) if length else 0

    def _begin_at(self, prompt: Sequence[int], tail: str) -> None:
        self._start, self._tail = len(prompt), tail
        self._total = len(tail)
        self._scanned = [len(tail)] * len(self._scanned)
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
            self.phase = "think"
            self._scanned = [offset + where + len(self._markers.open)] * len(self._scanned)
            self.opened = self._start + len(self._ends) - 1
        end = self._follow_close(self._markers, fresh)
        if self.closed is not None:
            self.phase = "answer"
        return end

    def _follow_close(self, markers: Markers, fresh: int) -> int:
        """Note a closing marker that ends in the last token; the character count at which it begins, or all."""
        where = self._tail.find(markers.close, max(0, len(self._tail) - fresh - len(markers.close) + 1))
        if where < 0:
            return self._total
        char = self._total - len(self._tail) + where
        self.closed = self._mark(char)
        return char

    def _mark(self, char: int) -> MarkerPosition:
        offset = self._total - len(self._tail)
        first = self._token_at(char)
        before = self._tail[max(0, self._ends[first - self._start] - offset) : char - offset]
        return MarkerPosition(first, before, char <= offset or self._tail[char - offset - 1].isspace())

    def _count(self) -> None:
        """every(k) falls due behind each k-th thinking token, or behind the character or marker that it would split."""
        assert self._cues is not None
        if not self._cues.every or self.phase != "think" or self.opened is None:
            return
        thought = self._start + len(self._ends) - 1 - self.opened
        self._owed |= thought > 0 and thought % self._cues.every == 0
        if self._owed and self.whole and self.half_closed() is None:
            self._owed, self._due, self.at_cue = False, True, True

    def _scan(self, end: int, ready: list[Found]) -> None:
        """Add to `ready` the cues that ended in the token before the last one; those in the last one wait for its row.

        Both may happen in one push ("Wait" + "\n\n"). One whose row is gone is left out: its text took several tokens.
        """
        assert self._cues is not None
        offset, now = self._total - len(self._tail), self._start + len(self._ends) - 2
        for kind, pattern in enumerate(self._cues.kinds):
            for match in pattern.finditer(self._tail, max(0, self._scanned[kind] - offset), end - offset):
                if match.end() == len(self._tail) and not match.group().isspace():
                    # The word may go on ("Wait" -> "Waiting"): its row is kept, nothing is decided.
                    self.at_cue = True
                    break
                self._scanned[kind] = offset + match.end()
                found = Found(offset + match.start(), kind, self._cue(match, offset))
                if found.cue.last == now:
                    self._waiting.append(found)
                    self.at_cue = True
                elif found.cue.last == now - 1:
                    ready.append(found)
        if self._due:
            # No text of its own: behind all that have one.
            ready.append(Found(self._total, len(self._cues.kinds), Cue((self._cues.spaced,), 0, now, now - 1, "")))
            self._due = False

    def _cue(self, found: re.Match[str], offset: int) -> Cue:
        assert self._cues is not None
        start = offset + found.start()
        first, last = self._token_at(start), self._token_at(offset + found.end() - 1)
        before = self._tail[self._ends[first - self._start] - offset : found.start()]
        return Cue(self._cues.names_of(found.group()), 0, first, last, before)

    def _token_at(self, char: int) -> int:
        return self._start + bisect_right(self._ends, char) - 1
