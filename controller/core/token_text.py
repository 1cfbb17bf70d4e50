"""Tokens in, whole characters out, with the tokens that hold each character.

A character may be split over tokens (byte-level BPE, byte fallback), so the text of a sequence is not the texts of its
tokens one after the other. Whatever reads a run's text reads it through here.
"""

from __future__ import annotations

import codecs
from bisect import bisect_right
from collections.abc import Sequence

from .tokenizer import Tokenizer

LONGEST_CHARACTER = 4
"""Bytes, and so tokens, of a character in UTF-8."""


class TextDecoder:
    """An incremental decoder: the whole characters that each token completes.

    Broken UTF-8 becomes U+FFFD, as in `bytes.decode(errors="replace")` of the whole.

    >>> from reasonctl.backends.toy import ToyTokenizer
    >>> tokenizer = ToyTokenizer([b"caf\\xc3", b"\\xa9!"])
    >>> decoder = TextDecoder(tokenizer)
    >>> decoder.push(0), decoder.inside, decoder.push(1), decoder.inside
    ('caf', True, 'é!', False)
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._texts: dict[int, str | None] = {}
        """By token: its text, or None if it holds a part of a character."""
        self.inside = False
        """The last token ends inside a character."""

    def push(self, token: int) -> str:
        """The text that is whole once this token is there."""
        if not self.inside:
            if token not in self._texts:
                self._texts[token] = _whole_text(self._tokenizer.bytes_of(token))
            text = self._texts[token]
            if text is not None:
                return text
        text = self._decoder.decode(self._tokenizer.bytes_of(token))
        self.inside = bool(self.begun)
        return text

    @property
    def begun(self) -> bytes:
        """The bytes of a character that is not whole yet."""
        return self._decoder.getstate()[0]

    def finish(self) -> str:
        """End the text here: U+FFFD for a character that isn't whole, else an empty text."""
        self.inside = False
        return self._decoder.decode(b"", final=True)


def _whole_text(piece: bytes) -> str | None:
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return None


class TokenText:
    """The last characters of a sequence of tokens, and where each of them stands.

    Characters are numbered from the first one of `tail` at the beginning. `start` is the absolute index of the first
    token; the characters of `prompt_tail` stand before it.
    """

    def __init__(self, tokenizer: Tokenizer, most: int) -> None:
        self._tokenizer = tokenizer
        self._most = most
        self.start = 0
        """Absolute index of the first token whose place is known."""
        self.restart(0)

    def restart(self, start: int) -> None:
        """An empty text whose next token has the absolute index `start`."""
        self.start = start
        self._decoder = TextDecoder(self._tokenizer)
        self.tail = ""
        """The last whole characters."""
        self.total = 0
        """Whole characters so far."""
        self._whole = [0]
        """Whole characters before each token, and after the last."""
        self._split: set[int] = set()
        """Tokens, counted from `start`, that begin inside a character; the next one may be among them."""

    def begin(self, prompt: Sequence[int]) -> None:
        """The text of a prompt, of which only the end is stored; tokens are placed from its end on."""
        self.restart(len(prompt))
        self._decode_again(prompt, self._most)
        self.total = len(self.tail)
        self._whole = [self.total]
        self._split = {0} if self._decoder.inside else set()

    def push(self, token: int) -> int:
        """Take the next token in; the number of characters that it completes."""
        text = self._decoder.push(token)
        self.tail = (self.tail + text)[-(self._most + len(text)) :]
        self.total += len(text)
        self._whole.append(self.total)
        if self._decoder.inside:
            self._split.add(len(self._whole) - 1)
        return len(text)

    def rewind(self, tokens: Sequence[int]) -> None:
        """Back to the sequence's `tokens`, fewer than before."""
        del self._whole[len(tokens) - self.start + 1 :]
        self._split = {i for i in self._split if i < len(self._whole)}
        self.total = self._whole[-1]
        self._decode_again(tokens, min(self._most, self.total))

    def _decode_again(self, tokens: Sequence[int], most: int) -> None:
        """Set `tail` to the last `most` whole characters of `tokens`, by reading no more of them than needed."""
        first, size = len(tokens), 0
        # So many bytes hold as many characters, less one that is incomplete at either end.
        while first and size < LONGEST_CHARACTER * (most + 2):
            first -= 1
            size += len(self._tokenizer.bytes_of(tokens[first]))
        self._decoder = TextDecoder(self._tokenizer)
        text = "".join([self._decoder.push(token) for token in tokens[first:]])
        self.tail = text[-most:] if most else ""

    @property
    def next(self) -> int:
        """Absolute index of the next token."""
        return self.start + len(self._whole) - 1

    @property
    def offset(self) -> int:
        """Number of the first character of `tail`."""
        return self.total - len(self.tail)

    @property
    def inside(self) -> bool:
        """The text ends inside a character."""
        return self._decoder.inside

    @property
    def begun(self) -> bytes:
        """The bytes of a character that is not whole yet."""
        return self._decoder.begun

    def end_of(self, token: int) -> int:
        """Whole characters up to the end of the token with this absolute index."""
        return self._whole[token - self.start + 1]

    def last_of(self, char: int) -> int:
        """Absolute index of the token that completes a character."""
        return self.start + bisect_right(self._whole, char) - 1

    def first_of(self, char: int) -> int:
        """Absolute index of the last token at which the text can be split before a character, whole or only begun."""
        i = bisect_right(self._whole, char) - 1
        while i and i in self._split:
            i -= 1
        return self.start + i

    def between(self, token: int, char: int) -> str:
        """The text from the token with this absolute index up to a character."""
        return self.tail[max(0, self._whole[token - self.start] - self.offset) : max(0, char - self.offset)]
