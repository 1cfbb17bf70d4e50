"""A loaded masked model as the rest of the project sees it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from reasonctl.controller import Tokenizer
from reasonctl.controller.diffusion import MaskedEngine


@dataclass(frozen=True)
class MaskedText:
    """A masked model's engine and tokenizer."""

    name: str
    """What the user calls it."""
    engine: MaskedEngine
    """Runs it."""
    tokenizer: Tokenizer
    """Its tokenizer."""
    eos: frozenset[int]
    """Every token that ends a text."""
    prompt: Callable[[str], list[int]]
    """Turns a question into a prompt's tokens, through the chat template where there is one."""
    context: int
    """Most positions of prompt and answer together."""
    parameters: int
    """Number of weights."""
