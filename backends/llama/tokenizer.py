"""A Llama's vocabulary as the controller's tokenizer: text, bytes and ids, without chat templates."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence

from llama_cpp import Llama
from llama_cpp import llama_cpp as C

from reasonctl.controller import Tokenizer
from reasonctl.controller.core import Kind, Matcher

from ..grammar import Compiler
from ..token_ids import check_ids

_WRITTEN = C.LLAMA_TOKEN_ATTR_NORMAL | C.LLAMA_TOKEN_ATTR_USER_DEFINED | C.LLAMA_TOKEN_ATTR_CONTROL
_TEXT = _WRITTEN | C.LLAMA_TOKEN_ATTR_BYTE


class LlamaTokenizer(Tokenizer):
    """Wraps a Llama's vocabulary; special tokens are read and written as they stand, such as `<think>`."""

    def __init__(self, llm: Llama) -> None:
        # A Llama frees its model when it is collected, whoever else still holds that.
        self._llm = llm
        self._vocab = llm._model.vocab
        self._count = int(C.llama_vocab_n_tokens(self._vocab))
        self._bytes: dict[int, bytes] = {}
        """The bytes of tokens that were asked for."""
        # SentencePiece puts a space before the first word of a text. Inside a sequence that is wrong.
        spaced = llm.metadata.get("tokenizer.ggml.add_space_prefix", "true") == "true"
        sentencepiece = llm._model.vocab_type() == C.LLAMA_VOCAB_TYPE_SPM
        self._anchor = self._ids("\n") if sentencepiece and spaced else []
        self._grammars = Compiler(self._spellings)

    @property
    def library(self) -> Llama:
        """The Llama, which holds the vocabulary."""
        return self._llm

    def bytes_of(self, token: int) -> bytes:
        """The token's bytes. Raises ControllerError for an id outside of the vocabulary."""
        piece = self._bytes.get(token)
        if piece is None:
            if not 0 <= token < self._count:
                check_ids([token], self._count, "a text")
            piece = self._bytes[token] = self._spell(token)
        return piece

    def _spell(self, token: int) -> bytes:
        """Ask llama.cpp. The buffer is this call's own: threads read tokens at the same time."""
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            n = C.llama_token_to_piece(self._vocab, token, buffer, size, 0, True)
            if n >= 0:
                return buffer.raw[:n]
            size = -n

    def text(self, token: int) -> str:
        """The token decoded alone; broken UTF-8 as U+FFFD."""
        return self.bytes_of(token).decode("utf-8", errors="replace")

    def decode(self, tokens: Sequence[int]) -> str:
        """The tokens' text."""
        return b"".join(map(self.bytes_of, tokens)).decode("utf-8", errors="replace")

    def encode(self, text: str) -> list[int]:
        """Tokens of a text inside a sequence: markers are recognised, no BOS is added."""
        n = len(self._anchor)
        if n:
            anchored = self._ids("\n" + text)
            if anchored[:n] == self._anchor:
                return anchored[n:]
        return self._ids(text)

    def pieces(self) -> Iterator[tuple[int, bytes]]:
        """(id, bytes) of every token that text can produce, ids ascending; unused and unknown rows are left out."""
        for token in range(self._count):
            attributes = C.llama_vocab_get_attr(self._vocab, token)
            if attributes & _TEXT and not attributes & (C.LLAMA_TOKEN_ATTR_UNUSED | C.LLAMA_TOKEN_ATTR_UNKNOWN):
                yield token, self.bytes_of(token)

    def matcher(self, text: str, kind: Kind, eos: frozenset[int]) -> Matcher:
        """The beginning of a grammar; control tokens never match it."""
        return self._grammars.matcher(text, kind, eos)

    def _spellings(self) -> Iterator[tuple[int, bytes]]:
        for token, piece in self.pieces():
            if not C.llama_vocab_get_attr(self._vocab, token) & C.LLAMA_TOKEN_ATTR_CONTROL:
                yield token, piece

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._llm._model.tokenize(text.encode("utf-8"), add_bos=False, special=True)
        return ids


def end_tokens(llm: Llama) -> frozenset[int]:
    """Every token that ends generation (EOS, EOT and their like)."""
    vocab = llm._model.vocab
    return frozenset(token for token in range(llm.n_vocab()) if C.llama_vocab_is_eog(vocab, token))
