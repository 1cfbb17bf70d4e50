"""Token ids to text and back, the same on every backend; and whose ids mean the same.

A large vocabulary takes half a second to hash, and every attached model gets a new wrapper of its tokenizer:
`vocabulary_of` therefore keeps the hash with the library's own object.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence, Sized
from typing import Any, Literal, Protocol
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from .errors import ControllerError

Kind = Literal["ebnf", "schema"]
"""What a grammar is written in: EBNF as llama.cpp writes it, or a JSON schema."""


class Matcher(Protocol):
    """A position in a grammar. A value: it never changes."""

    def allowed(self) -> npt.NDArray[np.bool_]:
        """Shape (n,): which tokens may come next; ids from n on may not."""

    def after(self, token: int) -> Matcher | None:
        """The position after a token; None if the grammar doesn't admit it."""


class Tokenizer(ABC):
    """Token ids to text and back.

    Two methods are abstract. Listing the vocabulary and grammars are refused unless a subclass can do it.
    """

    @abstractmethod
    def bytes_of(self, token: int) -> bytes:
        """The token's bytes inside a sequence, special tokens as they are written; b"" for one that no text makes."""

    def text(self, token: int) -> str:
        """The token decoded alone; broken UTF-8 as U+FFFD."""
        return self.bytes_of(token).decode("utf-8", errors="replace")

    def decode(self, tokens: Sequence[int]) -> str:
        """The tokens' text; broken UTF-8 as U+FFFD."""
        return b"".join(map(self.bytes_of, tokens)).decode("utf-8", errors="replace")

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Tokens of a text inside a sequence: markers are recognised, no BOS is added."""

    @property
    def library(self) -> Any:
        """The object that holds the vocabulary: wrappers of one library's tokenizer share it. Default: this one."""
        return self

    def pieces(self) -> Iterator[tuple[int, bytes]]:
        """(id, bytes) of every token that text can produce, ids ascending; padding rows are left out.

        Raises:
            ControllerError: the vocabulary can't be listed (the default).
        """
        raise ControllerError("this drafter compares vocabularies; pass the tokenizer: attach(model, …, tokenizer=…)")

    def matcher(self, text: str, kind: Kind, eos: frozenset[int]) -> Matcher:
        """The beginning of a grammar, matched against this tokenizer's tokens.

        Args:
            text: the grammar.
            kind: what it is written in.
            eos: tokens that end the text, allowed where the grammar is complete.

        Raises:
            ControllerError: the grammar can't be read, or this tokenizer can't match one (the default).
        """
        raise ControllerError(f"{type(self).__name__} can't match grammars against its tokens; leave it out")


_HASHES: WeakKeyDictionary[Any, tuple[int, str]] = WeakKeyDictionary()
"""By a tokenizer's `library`: its size when it was hashed, and the hash."""


def vocabulary_of(tokenizer: Tokenizer) -> str:
    """`vocabulary_hash`, computed once for as long as the tokenizer's `library` lives and doesn't grow."""
    library = tokenizer.library
    size = len(library) if isinstance(library, Sized) else 0
    known = _HASHES.get(library)
    if known is None or known[0] != size:
        known = _HASHES[library] = size, vocabulary_hash(tokenizer)
    return known[1]


def vocabulary_hash(tokenizer: Tokenizer) -> str:
    """Equal for tokenizers with the same bytes under the same ids. Raises ControllerError if they can't be listed."""
    digest = hashlib.sha256()
    for token, piece in tokenizer.pieces():
        digest.update(f"{token} {piece.hex()}\n".encode())
    return digest.hexdigest()
