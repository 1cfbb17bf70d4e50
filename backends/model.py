"""A loaded model as the rest of the project sees it, whatever runs it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from reasonctl.controller import Capabilities, Engine, Tokenizer

Backend = Literal["llama.cpp", "transformers"]


class Message(NamedTuple):
    """One message of a conversation."""

    role: str
    """Who speaks: `user`, `assistant`, `system` and the like."""
    content: str
    """The text."""


@dataclass(frozen=True)
class Model:
    """Engine, tokenizer and the facts that a probe's card records."""

    name: str
    """What the user calls it."""
    backend: Backend
    library: Any
    """The llama_cpp.Llama or the transformers model, for code that calls it directly."""
    engine: Engine
    tokenizer: Tokenizer
    eos: frozenset[int]
    """Every token that ends a text."""
    depth: int
    """Number of blocks."""
    width: int
    """Hidden size."""
    context: int
    """Most tokens of one sequence."""
    template: str | None
    """The chat template; None where the model has none."""
    settings: dict[str, str]
    """What changes hidden states slightly: quantisation, dtype, flash attention."""
    prompt: Callable[[str], list[int]]
    """Turns a question into a prompt's tokens, through the chat template where there is one."""
    can: Capabilities
    """What a new session can do."""
    start: tuple[int, ...] = ()
    """Tokens before a text that is no prompt: BOS, where the model wants one."""
    parameters: int = 0
    """Number of weights."""
    chat: Callable[[Sequence[Message]], list[int] | None] | None = None
    """Turns a conversation into a prompt's tokens, None where the template refuses it. None: there is no template."""

    special: Mapping[str, str] = field(default_factory=dict)
    """What a chat template may name besides the messages: `bos_token`, `eos_token` and the like, as text."""

    def fingerprint(self) -> str:
        """A hash of depth, width and vocabulary: equal for the same model in every format and quantisation."""
        return fingerprint_of(self.depth, self.width, self.tokenizer)


def fingerprint_of(depth: int, width: int, tokenizer: Tokenizer) -> str:
    """`Model.fingerprint`, for a model of which only these are known."""
    digest = hashlib.sha256(f"{depth} {width}\n".encode())
    for token, piece in tokenizer.pieces():
        digest.update(f"{token} {piece.hex()}\n".encode())
    return digest.hexdigest()
