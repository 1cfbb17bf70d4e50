"""Whose token ids are whose: vocabularies compared by their bytes, each hashed once.

A large vocabulary takes half a second to hash, and every attached model gets a new tokenizer port.
"""

from __future__ import annotations

from collections.abc import Sized
from typing import Any
from weakref import WeakKeyDictionary

from .ngrams import vocabulary_hash
from .thinking import Tokenizer

_HASHES: WeakKeyDictionary[Any, tuple[int, str]] = WeakKeyDictionary()


def vocabulary_of(tokenizer: Tokenizer) -> str:
    """`vocabulary_hash`, kept as long as the library's own tokenizer (its `library`) lives and doesn't grow."""
    library = getattr(tokenizer, "library", tokenizer)
    size = len(library) if isinstance(library, Sized) else 0
    known = _HASHES.get(library)
    if known is None or known[0] != size:
        known = _HASHES[library] = size, vocabulary_hash(tokenizer)
    return known[1]
