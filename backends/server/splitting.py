"""From a run's tokens to what a client reads: thoughts and answer apart, markers left out, cut at a stop text.

Text that may still become a marker or a stop text is held until that is known, so what was given out stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from reasonctl.controller import Markers, Tokenizer
from reasonctl.controller.core import TextDecoder

Part = Literal["reasoning", "content"]


@dataclass
class Piece:
    """Text that can be given out."""

    reasoning: str = ""
    """Of the thoughts."""
    content: str = ""
    """Of the answer."""

    def add(self, part: Part, text: str) -> None:
        """More text of a part."""
        if part == "reasoning":
            self.reasoning += text
        else:
            self.content += text


@dataclass(frozen=True)
class Marking:
    """How a run's text is marked."""

    markers: Markers | None = None
    """None: nothing is a thought."""
    thinking: bool = False
    """The run begins inside its thoughts."""
    reopens: bool = True
    """Thinking may open again in the answer."""


@dataclass
class Splitter:
    """Takes a run's tokens one by one.

    >>> from reasonctl.backends.toy import ToyTokenizer
    >>> tokenizer = ToyTokenizer(["so ", "</", "t>", " 4", " 5"])
    >>> splitter = Splitter(tokenizer, frozenset(), Marking(Markers("<t>", "</t>"), thinking=True), ("5",))
    >>> pieces = [splitter.push(token) for token in (0, 1, 2, 3, 4)]
    >>> "".join(p.reasoning for p in pieces), "".join(p.content for p in pieces), splitter.stopped
    ('so', '4 ', '5')
    """

    tokenizer: Tokenizer
    """The model's."""
    eos: frozenset[int]
    """Tokens that end a text; they are no part of it."""
    marking: Marking
    """How thoughts are marked."""
    stops: Sequence[str] = ()
    """Texts that end the answer; they count in the answer alone, and not in what was forced."""
    part: Part = field(init=False)
    """What the next text belongs to."""
    stopped: str | None = None
    """The stop text that was met; nothing comes after it."""
    written: int = 0
    """Characters of the answer so far, those that are held included."""
    cut: int | None = None
    """Of those, how many stand before the stop text."""

    def __post_init__(self) -> None:
        self.part = "reasoning" if self.marking.thinking else "content"
        self._decoder = TextDecoder(self.tokenizer)
        self._text = ""
        """Text of this part that may still become a marker."""
        self._held = ""
        """Text of the answer that may still become a stop text."""
        self._space = ""
        """White space of the thoughts that may turn out to be their last."""
        self._begins = True
        """No text of this part was given out: white space before it is left out."""
        self._first = True
        """Nothing was written: an opening marker of the model's own is no thought."""

    @property
    def held(self) -> int:
        """Characters of the answer that may still become a stop text."""
        return len(self._held)

    def push(self, token: int, forced: bool = False) -> Piece:
        """What a token adds.

        Args:
            token: The token.
            forced: The controller wrote it, so no stop text is met in it.
        """
        piece = Piece()
        if self.stopped is None and token not in self.eos:
            self._text += self._decoder.push(token)
            self._read(piece, last=False, forced=forced)
        return piece

    def finish(self) -> Piece:
        """What was held and is plain text after all."""
        piece = Piece()
        if self.stopped is None:
            self._text += self._decoder.finish()
            self._read(piece, last=True, forced=False)
            piece.content += self._held
            self._held = ""
        return piece

    def _read(self, piece: Piece, *, last: bool, forced: bool) -> None:
        """Give out what is certain, over as many markers as stand in the text."""
        while self.stopped is None:
            marker = self._marker()
            where = self._text.find(marker) if marker else -1
            if where < 0:
                held = 0 if last or not marker else self._unsure(marker)
                text, self._text = self._text[: len(self._text) - held], self._text[len(self._text) - held :]
                self._give(piece, text, forced)
                return
            self._give(piece, self._text[:where], forced)
            self._text = self._text[where + len(marker) :]
            self._turn(piece, marker)

    def _marker(self) -> str:
        """The marker that ends this part; "" where none does."""
        markers = self.marking.markers
        if markers is None:
            return ""
        if self.part == "reasoning":
            again = self._opening_again()
            return again if again and self._text.lstrip().startswith(again) else markers.close
        return markers.open if self.marking.reopens or self._first else ""

    def _opening_again(self) -> str:
        """The opening marker that a model may write first in thoughts that are open already; "" elsewhere."""
        markers = self.marking.markers
        if markers is None or self.part != "reasoning" or not self._first or markers.open in markers.close:
            return ""
        return markers.open.strip()

    def _unsure(self, marker: str) -> int:
        """Characters at the text's end that may still become a marker."""
        again, own = self._opening_again(), self._text.lstrip()
        return len(own) if own and again.startswith(own) else _begun(self._text, marker)

    def _turn(self, piece: Piece, marker: str) -> None:
        """A marker was passed."""
        if self.part == "reasoning" and self.marking.markers is not None and marker != self.marking.markers.close:
            self._first = False
            return
        if self.part == "content":
            piece.content += self._held
            self._held = ""
        self.part = "content" if self.part == "reasoning" else "reasoning"
        self._space, self._begins, self._first = "", True, False

    def _give(self, piece: Piece, text: str, forced: bool) -> None:
        """Give out text of this part."""
        if self._begins:
            text = text.lstrip() if self.marking.markers is not None else text
        if not text:
            return
        self._begins = self._first = False
        if self.part == "reasoning":
            text = self._space + text
            bare = text.rstrip()
            self._space = text[len(bare) :]
            piece.add("reasoning", bare)
            return
        self.written += len(text)
        self._answer(piece, text, forced)

    def _answer(self, piece: Piece, text: str, forced: bool) -> None:
        """Give out text of the answer, up to a stop text."""
        if forced:
            piece.add("content", self._held + text)
            self._held = ""
            return
        text = self._held + text
        found = [(text.find(stop), stop) for stop in self.stops if stop in text]
        if found:
            where, self.stopped = min(found)
            self.cut = self.written - len(text) + where
            self._held = ""
            piece.add("content", text[:where])
            return
        held = max((_begun(text, stop) for stop in self.stops), default=0)
        piece.add("content", text[: len(text) - held])
        self._held = text[len(text) - held :]


def _begun(text: str, marker: str) -> int:
    """Characters at the end of a text that may be the beginning of a marker.

    >>> _begun("so </thi", "</think>"), _begun("so", "</think>")
    (5, 0)
    """
    return next((n for n in range(min(len(text), len(marker) - 1), 0, -1) if text.endswith(marker[:n])), 0)


class StopAt:
    """Says after each sampled token whether a stop text was met: the `stop` of a `Call`.

    It reads each token once, and all of them again where some were taken back.
    """

    def __init__(self, prompt: int, made: Splitter) -> None:
        """Nothing is read yet.

        Args:
            prompt: Number of the prompt's tokens.
            made: A fresh splitter; it is copied.
        """
        self._prompt = prompt
        self._splitter = made
        self._read = list[int]()
        self._own = prompt
        self._again()

    def _again(self) -> None:
        made = self._splitter
        self._splitter = Splitter(made.tokenizer, made.eos, made.marking, made.stops)
        self._read = []

    def __call__(self, tokens: Sequence[int], own_from: int) -> bool:
        """Whether the run ends.

        Args:
            tokens: All tokens, the prompt's included.
            own_from: The first token after which none was forced.
        """
        read = self._read
        if own_from != self._own or len(tokens) - self._prompt <= len(read):
            self._own = own_from
            self._again()
            read = self._read
        for at in range(self._prompt + len(read), len(tokens)):
            self._splitter.push(tokens[at], forced=at < own_from)
            read.append(tokens[at])
        return self._splitter.stopped is not None
