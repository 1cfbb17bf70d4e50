"""A transformers tokenizer as the controller's: the exact bytes of each token, and text inside a sequence.

Vocabularies spell bytes in alphabets of their own (byte-level BPE, SentencePiece, WordPiece), which are undone here. No
BOS and no chat template is added.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from reasonctl.controller import ControllerError, Tokenizer
from reasonctl.controller.core import Kind, Matcher

from ..grammar import Compiler

_SPACE = "\u2581"
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_ANCHOR = "\n"
_SHORT = 200
"""Most characters of a text whose tokens are kept: what closes thinking is encoded again at every cue."""
_MOST_KEPT = 512
"""Texts whose tokens are kept."""


@cache
def _byte_alphabet() -> dict[str, int]:
    """The printable character that byte-level BPE (GPT-2, Radford et al. 2019) writes for each byte, inverted."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    return alphabet | {chr(256 + i): byte for i, byte in enumerate(others)}


class HFTokenizer(Tokenizer):
    """Wraps any transformers tokenizer.

    decode(a + b) = decode(a) + decode(b), wherever a character is not split: no space is stripped or cleaned up.

    Raises:
        ControllerError: It is given something else, such as a processor or a name.
    """

    def __init__(self, tokenizer: Any) -> None:
        if not hasattr(tokenizer, "added_tokens_decoder"):
            raise ControllerError(
                f"tokenizer is a {type(tokenizer).__name__}; give the model's transformers tokenizer, such as "
                "AutoTokenizer.from_pretrained(…), or a processor's own: processor.tokenizer"
            )
        self.tokenizer = tokenizer
        self._added = {token: entry.content for token, entry in tokenizer.added_tokens_decoder.items()}
        self._special = {token for token, entry in tokenizer.added_tokens_decoder.items() if entry.special}
        self._bytes: dict[int, bytes] = {}
        self._encoded: dict[tuple[str, int], list[int]] = {}
        """Tokens of short texts, by text and size of the vocabulary, which a user may add to."""
        self._lock = threading.Lock()
        self._grammars = Compiler(lambda: ((i, piece) for i, piece in self.pieces() if i not in self._special))
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self._layout = str(backend.decoder) if backend is not None else ""
        self._anchor = self._plain(_ANCHOR) if self._adds_space() else []

    @property
    def library(self) -> Any:
        """The transformers tokenizer, which holds the vocabulary."""
        return self.tokenizer

    def text(self, token: int) -> str:
        """The token decoded alone; broken UTF-8 as U+FFFD."""
        return self.bytes_of(token).decode("utf-8", errors="replace")

    def decode(self, tokens: Sequence[int]) -> str:
        """The tokens' text; special tokens as they are written."""
        return b"".join(map(self.bytes_of, tokens)).decode("utf-8", errors="replace")

    def encode(self, text: str) -> list[int]:
        """Tokens of a text inside a sequence; the space that sentencepiece puts before a text is left out."""
        if len(text) > _SHORT:
            return self._encode(text)
        key = text, len(self.tokenizer)
        tokens = self._encoded.get(key)
        if tokens is None:
            if len(self._encoded) >= _MOST_KEPT:
                self._encoded = {}
            tokens = self._encoded[key] = self._encode(text)
        return list(tokens)

    def _encode(self, text: str) -> list[int]:
        if self._anchor:
            tokens = self._plain(_ANCHOR + text)
            rest = tokens[len(self._anchor) :]
            if tokens[: len(self._anchor)] == self._anchor and self.decode(rest) == text:
                return rest
        return self._plain(text)

    def pieces(self) -> Iterator[tuple[int, bytes]]:
        """(id, bytes) of every token that the tokenizer defines, ascending; the model's padding rows have none."""
        for token in sorted(set(self.tokenizer.get_vocab().values()) | set(self._added)):
            piece = self.bytes_of(token)
            # Converters to GGUF give padding rows this name; llama.cpp marks them unused.
            if piece != f"[PAD{token}]".encode():
                yield token, piece

    def matcher(self, text: str, kind: Kind, eos: frozenset[int]) -> Matcher:
        """The beginning of a grammar; special tokens never match it."""
        return self._grammars.matcher(text, kind, eos)

    def _plain(self, text: str) -> list[int]:
        with self._lock:  # the library's tokenizer is set anew for each text, and threads encode at the same time
            return [int(token) for token in self.tokenizer.encode(text, add_special_tokens=False)]

    def _adds_space(self) -> bool:
        tokens = self._plain("a")
        return self.decode(tokens).startswith(" ")

    def bytes_of(self, token: int) -> bytes:
        """The token's bytes; b"" for a padding row of the model. Raises ControllerError for an id below 0."""
        piece = self._bytes.get(token)
        if piece is None:
            piece = self._bytes[token] = self._spell(token)
        return piece

    def _spell(self, token: int) -> bytes:
        if token < 0:
            raise ControllerError(f"a text has the token id {token}; ids begin at 0")
        if token in self._added:
            return str(self._added[token]).encode()
        written: str | None = self.tokenizer.convert_ids_to_tokens(token)
        if written is None:
            return b""  # a padding row of the model: no text makes it
        if "ByteLevel" in self._layout:
            alphabet = _byte_alphabet()
            known = all(character in alphabet for character in written)
            return bytes(alphabet[character] for character in written) if known else written.encode()
        if "WordPiece" in self._layout:
            return (written[2:] if written.startswith("##") else " " + written).encode()
        if byte := _BYTE.fullmatch(written):
            return bytes([int(byte[1], 16)])
        return written.replace(_SPACE, " ").encode()


class NoTokenizer(Tokenizer):
    """Stands in where a call needs no text: every token's text is empty, and nothing can be encoded."""

    def text(self, token: int) -> str:
        return ""

    def bytes_of(self, token: int) -> bytes:
        return b""

    def decode(self, tokens: Sequence[int]) -> str:
        return ""

    def encode(self, text: str) -> list[int]:
        raise ControllerError("text is needed here; pass the model's tokenizer: attach(model, controller, tokenizer=…)")
