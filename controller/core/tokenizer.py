"""Whose token ids are whose: vocabularies compared by their bytes, each hashed once.

A large vocabulary takes half a second to hash, and every attached model gets a new tokenizer port.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence, Sized
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from .errors import ControllerError

_HASHES: WeakKeyDictionary[Any, tuple[int, str]] = WeakKeyDictionary()


def vocabulary_of(tokenizer: Tokenizer) -> str:
    """`vocabulary_hash`, kept as long as the library's own tokenizer (its `library`) lives and doesn't grow."""
    library = getattr(tokenizer, "library", tokenizer)
    size = len(library) if isinstance(library, Sized) else 0
    known = _HASHES.get(library)
    if known is None or known[0] != size:
        known = _HASHES[library] = size, vocabulary_hash(tokenizer)
    return known[1]


def vocabulary_hash(tokenizer: Tokenizer) -> str:
    """Equal for tokenizers with the same bytes under the same ids. Raises ControllerError if it can't be read."""
    pieces = getattr(tokenizer, "pieces", None)
    if pieces is None:
        raise ControllerError("this drafter compares vocabularies; pass the tokenizer: attach(model, …, tokenizer=…)")
    digest = hashlib.sha256()
    for token, piece in pieces():
        digest.update(f"{token} {piece.hex()}\n".encode())
    return digest.hexdigest()


class Tokenizer(Protocol):
    """Token ids to text and back, the same on every backend."""

    def text(self, token: int) -> str:
        """The token decoded alone; broken UTF-8 as U+FFFD, special tokens as they are written."""

    def bytes_of(self, token: int) -> bytes:
        """The token's bytes inside a sequence, special tokens as they are written; b"" for one that no text makes."""

    def decode(self, tokens: Sequence[int]) -> str:
        """The tokens' text, special tokens as they are written."""

    def encode(self, text: str) -> list[int]:
        """Tokens of a text inside a sequence: markers are recognised, no BOS is added."""
