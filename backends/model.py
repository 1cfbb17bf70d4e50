"""A loaded model as the rest of the project sees it, whatever runs it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from reasonctl.controller import Capabilities, Engine, Tokenizer

Backend = Literal["llama.cpp", "transformers"]


@dataclass(frozen=True)
class Model:
    """Engine, tokenizer and the facts that a probe's card records.

    library: the llama_cpp.Llama or the transformers model, for those who call it directly.
    width: hidden size; depth: number of blocks. template: the chat template, if there is one.
    settings: what changes hidden states slightly (quantisation, dtype, flash attention).
    prompt: a question as the prompt's tokens, through the chat template where there is one.
    start: what precedes a text that is no prompt: the token of its beginning, or nothing.
    parameters: number of weights.
    """

    name: str
    backend: Backend
    library: Any
    engine: Engine
    tokenizer: Tokenizer
    eos: frozenset[int]
    depth: int
    width: int
    context: int
    template: str | None
    settings: dict[str, str]
    prompt: Callable[[str], list[int]]
    can: Capabilities
    start: tuple[int, ...] = ()
    parameters: int = 0

    def fingerprint(self) -> str:
        """Equal for the same weights' vocabulary and shape in any format: depth, width, token bytes by id."""
        digest = hashlib.sha256(f"{self.depth} {self.width}\n".encode())
        for token, piece in self.tokenizer.pieces():
            digest.update(f"{token} {piece.hex()}\n".encode())
        return digest.hexdigest()
