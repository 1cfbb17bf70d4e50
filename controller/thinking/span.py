"""Follows the text of one run: where thinking opens and closes, and which cues stand in it.

It maps characters to tokens, and decides nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..core.token_text import TokenText
from ..core.tokenizer import Tokenizer
from .cues import TAIL, Cue, Cues, Found, first_of, open_end
from .exit_form import ExitForm
from .markers import Markers, Opens, Phase


@dataclass(frozen=True)
class MarkerPosition:
    """Where a closing marker, whole or half-written, begins."""

    first: int
    """Absolute index of the token in which it begins."""
    before: str
    """Text of that token before the marker."""
    spaced: bool
    """The text before the marker is empty or ends in white space."""


class Place(NamedTuple):
    """Where a run stands after a token."""

    phase: Phase
    """Before, in or after a thinking span."""
    number: int
    """Spans that were opened so far."""
    opened: int | None
    """Where the last of them begins."""


class Span:
    """Where one run stands: before, in or after a thinking span; and the cues in that span.

    A span may open again in the answer. A model without markers thinks until it is made to stop: the span is the whole
    completion.
    """

    number = 0
    """Spans that were opened so far, by the prompt or by the model."""
    opened: int | None = None
    """Absolute index of the first token of the last span that is generated."""
    closed: MarkerPosition | None = None
    """Where the closing marker begins that the last token completed. Set after the controller's own close too."""
    unopened = False
    """A closing marker was written, and nothing had opened the span."""

    _blocked = False
    """A suffix after the last token would split a character or a marker, or close a span that is closed."""
    _owed = False
    """every(k) fell due inside a character or a marker."""
    _due = False
    """every(k) stands after the last token."""
    _forced = False
    """The controller has closed the last span."""
    _sought = 0
    """Number of the first character of the answer that was not searched for an opening marker."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        markers: Markers | None,
        cues: Cues | None,
        opens: Opens = "model",
        form: ExitForm = "replace",
        *,
        reopens: bool = True,
    ) -> None:
        self._tokenizer = tokenizer
        self._markers = markers
        self._at_once = opens == "start"
        """The first token is a thought, unless the prompt has closed thinking."""
        self._begun = 0
        """Characters of the prompt."""
        self._cues = cues
        self._form = form
        self._kinds = () if cues is None else cues.open_kinds if form == "append-open" else cues.kinds
        self._text = TokenText(tokenizer, TAIL)
        self.phase: Phase = "think" if markers is None else "before"
        self.at_cue = False
        """A cue ends, or may end, in the last token, so its row's hidden state may be wanted."""
        self._waiting: list[Found] = []
        """Cues that end in the last token; they are reported once its row is there."""
        self._reopens = reopens and markers is not None and markers.open not in markers.close
        """A span may open again in the answer; where both markers are alike nobody could tell."""
        self._before = Place(self.phase, 0, None)
        """Where the run stood before the last token."""
        self._scanned = [0] * len(self._kinds)
        """Characters up to the last cue that was found, by kind of cue."""
        self._searched = 0
        """No cue begins before this character that wasn't found already, whatever follows."""

    def begin(self, prompt: Sequence[int]) -> None:
        """Read the prompt. It opens the span if it ends in the opening marker, white space aside.

        An opening marker earlier in the prompt doesn't count: it belongs to an earlier turn, or somebody wrote about
        it. A model that thinks from its first token has the span open, unless the prompt ends in the closing marker.
        """
        self._text.begin(prompt)
        self._begun = self._text.total
        self._scanned = [self._text.total] * len(self._scanned)
        tail = self._end_of(prompt)
        if self._markers and tail.endswith(self._markers.open.rstrip()):
            self.phase = "think"
            self._at_once = False
        elif self._markers and self._at_once and not tail.endswith(self._markers.close.rstrip()):
            self.phase = "think"
        if self.phase == "think":
            self._open(len(prompt))

    def _open(self, first: int) -> None:
        """A span begins at token `first`."""
        self.phase = "think"
        self.opened = first
        self.number += 1

    def _end_of(self, prompt: Sequence[int]) -> str:
        """The last characters of a prompt without the white space after them, however much that is."""
        length = len(prompt)
        while length and self._tokenizer.bytes_of(prompt[length - 1]).decode(errors="replace").isspace():
            length -= 1
        text = TokenText(self._tokenizer, TAIL)
        text.begin(prompt[:length])
        return text.tail.rstrip()

    def close(self, length: int) -> None:
        """The controller closed the span: the answer begins at token `length`."""
        self.phase = "answer"
        self._forced = True
        self.closed = None
        self._text.restart(length)
        self._sought = self._searched = 0
        self._scanned = [0] * len(self._kinds)
        self._forget_cues()

    def rewind(self, tokens: Sequence[int]) -> None:
        """Forget what came after `tokens`, the run's tokens up to a point before the last closing marker."""
        self._text.rewind(tokens)
        self._scanned = [min(count, self._text.total) for count in self._scanned]
        self._sought = min(self._sought, self._unsought())
        self._searched = 0
        self._forget_cues()
        self.closed = None
        self.phase, self.number, self.opened = self._before

    def stop_cues(self) -> None:
        """No cue is wanted any more; the phase is still followed."""
        self._cues = None
        self._forget_cues()

    def _forget_cues(self) -> None:
        """The cues that were found and not reported are gone."""
        self._waiting = []
        self._blocked = False
        self._owed = self._due = False
        self.at_cue = False

    def push(self, token: int) -> Cue | None:
        """Take in the next token; returns the cue that ended in the token before it, not numbered yet, or None.

        A cue that stays on exit is none where the suffix after its last token would split a character or a marker, or
        where that token closes the span too.
        """
        blocked = self._blocked
        ready = self._follow_token(token)
        self._blocked = self._form != "replace" and self.at_cue and (self.phase != "think" or self._inside())
        return None if blocked else first_of(ready)

    def cue_now(self) -> Cue | None:
        """The cue that ended in the last token, where nothing that follows can change it.

        So it is with the form append-open, and `push` returns the same cue with the next token, whatever that is.
        """
        found = [*self._waiting, *([self._due_cue(self._text.next)] if self._due else [])]
        return None if self._blocked else first_of(found)

    def _follow_token(self, token: int) -> list[Found]:
        """Take in the next token; returns the cues that ended in the token before it."""
        fresh = self._text.push(token)
        ready = self._waiting
        self._waiting = []
        self.at_cue = False
        self.closed = None
        self._before = Place(self.phase, self.number, self.opened)
        if self.phase == "answer":
            self._follow_answer(self._markers, fresh)
            return ready
        end = self._follow(self._markers, fresh) if self._markers else self._text.total
        if self._cues is None or self.phase == "before":
            return ready
        self._scan(self._cues, end, ready)
        self._count(self._cues)
        return ready

    def half_closed(self) -> MarkerPosition | None:
        """Where a half-written closing marker at the end of the text begins, be it a part of a character."""
        if self._markers is None or self.phase == "before":
            return None
        written = self._text.total - self._text.end_of(self._text.start - 1)
        tail = self._text.tail[max(0, len(self._text.tail) - written) :].encode() + self._text.begun
        close = self._markers.close.encode()
        for length in range(min(len(close) - 1, len(tail)), 0, -1):
            if tail.endswith(close[:length]):
                whole = close[: length - len(self._text.begun)].decode()
                return self._mark(self._text.total - len(whole))
        return None

    def closing(self) -> int:
        """Number of last tokens that go where a closing marker is completed next and taken back.

        Broken bytes go with the marker after them: the token that holds their end holds its begin too.
        """
        text = self._text
        mark = self.half_closed()
        if mark is not None:
            return text.next - mark.first
        inside = self._markers is not None and self.phase != "before" and text.inside
        return min(text.next - text.first_of(text.total), text.next - text.start) if inside else 0

    def end(self) -> MarkerPosition:
        """The last token, as the place where thinking ends: an end-of-sequence."""
        last = self._text.next - 1
        char = self._text.end_of(last - 1) - self._text.offset
        return MarkerPosition(last, "", char <= 0 or self._text.tail[char - 1].isspace())

    @property
    def next(self) -> int:
        """Absolute index of the next token."""
        return self._text.next

    @property
    def whole(self) -> bool:
        """The text doesn't end inside a character."""
        return not self._text.inside

    def _inside(self) -> bool:
        """The text ends inside a character or a half-written closing marker."""
        return not self.whole or self.half_closed() is not None

    def held(self) -> int:
        """Number of last tokens that an exit at an unfinished cue would take back: none where the cue stays."""
        text = self._text
        if self._cues is None or self.phase != "think" or self._form != "replace":
            return 0
        if self._waiting:
            return text.next - min(found.cue.first for found in self._waiting)
        open_break = self._cues.open_break(text.tail, text.total, self._scanned)
        length = max(self._cues.open_word(text.tail)[0], open_break)
        if not length and not text.inside:
            return 0
        return min(text.next - text.first_of(text.total - length), text.next - text.start)

    def _follow(self, markers: Markers, fresh: int) -> int:
        """Update the phase; returns the number of the character at which thinking ends so far."""
        text = self._text
        if self.phase == "before":
            where = text.tail.find(markers.open, max(0, len(text.tail) - fresh - len(markers.open)))
            if where < 0:
                close = text.tail.find(markers.close, max(0, len(text.tail) - fresh - len(markers.close) + 1))
                self.unopened |= close >= 0
                return text.total
            self._scanned = [text.offset + where + len(markers.open)] * len(self._scanned)
            self._open(text.next)
        if self._at_once:
            self._pass_opening(markers)
        end = self._follow_close(markers, fresh)
        if self.closed is not None:
            self.phase = "answer"
            self._forced = False
        return end

    def _follow_answer(self, markers: Markers | None, fresh: int) -> None:
        """Note a marker that ends in the last token: one that closes again what the controller closed, or an opening.

        One that opens a span in the very token that closes the last one is noted with the next token.
        """
        if markers is None:
            return
        if self._forced:
            self._follow_close(markers, fresh)
        if self.closed is not None or not self._reopens:
            return
        text = self._text
        where = text.tail.find(markers.open, max(0, self._sought - text.offset))
        self._sought = max(self._sought, self._unsought())
        if where >= 0:
            self._scanned = [text.offset + where + len(markers.open)] * len(self._scanned)
            self._open(text.next)

    def _unsought(self) -> int:
        """Number of the first character at which an opening marker may begin that isn't whole yet."""
        return max(0, self._text.total - len(self._markers.open) + 1) if self._markers else 0

    def _pass_opening(self, markers: Markers) -> None:
        """An opening marker that the model writes first, although it need not, is no thought."""
        text = self._text
        written = text.tail[max(0, len(text.tail) - text.total + self._begun) :]
        if written.strip() == markers.open.strip():
            self.opened = text.next
            self._scanned = [text.total] * len(self._scanned)
        self._at_once = markers.open.startswith(written.strip())

    def _follow_close(self, markers: Markers, fresh: int) -> int:
        """Note a closing marker that ends in the last token; returns the number of its first character or the next."""
        text = self._text
        where = text.tail.find(markers.close, max(0, len(text.tail) - fresh - len(markers.close) + 1))
        if where < 0:
            return text.total
        self.closed = self._mark(text.offset + where)
        self._sought = text.offset + where + len(markers.close)
        return text.offset + where

    def _mark(self, char: int) -> MarkerPosition:
        text = self._text
        first = text.first_of(char)
        spaced = char <= text.offset or text.tail[char - text.offset - 1].isspace()
        return MarkerPosition(first, text.between(first, char), spaced)

    def _count(self, cues: Cues) -> None:
        """every(k) falls due after each k-th thinking token, or after the character or marker that it would split."""
        if not cues.every or self.phase != "think" or self.opened is None:
            return
        thought = self._text.next - self.opened
        self._owed |= thought > 0 and thought % cues.every == 0
        if self._owed and not self._inside():
            self._owed = False
            self._due = True
            self.at_cue = True

    def _scan(self, cues: Cues, end: int, ready: list[Found]) -> None:
        """Add to `ready` the cues that ended in the token before the last one; those in the last one wait for its row.

        Both may happen in one push ("Wait" + "\n\n"). One whose row is gone is left out: its text took several tokens.
        """
        text = self._text
        offset, last = text.offset, text.next - 1
        for kind, pattern in enumerate(self._kinds):
            start = max(0, self._scanned[kind] - offset, self._searched - offset)
            for match in pattern.finditer(text.tail, start, end - offset):
                at_end = match.end() == len(text.tail) and not match.group().isspace()
                if at_end and self._form != "append-open":
                    # The word may go on ("Wait" -> "Waiting"): its row is kept, nothing is decided.
                    self.at_cue = True
                    break
                self._scanned[kind] = offset + match.end()
                found = Found(offset + match.start(), kind, self._cue(cues, kind, match))
                if found.cue.last == last:
                    self._waiting.append(found)
                    self.at_cue = True
                elif found.cue.last == last - 1:
                    ready.append(found)
        self._searched = text.total - open_end(text.tail, max(0, self._searched - offset))
        if self._due:
            ready.append(self._due_cue(last))
            self._due = False

    def _due_cue(self, after: int) -> Found:
        """every(k) before token `after`. It has no text of its own, so it comes after all cues that have one."""
        assert self._cues is not None
        return Found(self._text.total, len(self._kinds), Cue((self._cues.spaced,), 0, after, after - 1, ""))

    def _cue(self, cues: Cues, kind: int, found: re.Match[str]) -> Cue:
        text = self._text
        start = text.offset + found.start()
        first, last = text.first_of(start), text.last_of(text.offset + found.end() - 1)
        apart = self._form == "append-open" and kind < len(cues.open_words)
        names = (cues.open_words[kind],) if apart else cues.names_of(found.group())
        return Cue(names, 0, first, last, text.between(first, start))
