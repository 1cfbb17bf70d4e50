"""What the loop asks of a masked model: logits at some positions of a canvas, and keys kept of finished ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..core.decode import Floats


@dataclass
class PrefixCache:
    """Keys and values of a run's first positions, which an engine holds so that they aren't computed again.

    In a bidirectional model they depend on what comes later too, so that a cache changes logits (Fast-dLLM, Wu et al.
    2025, section 3.2): it is renewed whenever a block is finished.
    """

    length: int = 0
    """Positions that are held; 0: none."""
    held: Any = None
    """What the engine holds of them."""

    def drop(self) -> None:
        """Forget everything."""
        self.length, self.held = 0, None


@dataclass(frozen=True)
class Denoise:
    """Ask for one forward over a canvas."""

    tokens: Sequence[int]
    """The whole sequence, prompt first; unwritten positions hold the mask's id."""
    positions: Sequence[int]
    """Where logits are wanted, ascending; none of them lies in the cache."""
    cache: PrefixCache
    """What is held of the first positions; the engine feeds the others."""
    keep: int = 0
    """Hold the first so many positions from this forward on; 0: leave the cache as it is."""


class MaskedEngine(ABC):
    """A masked model's weights and its forward."""

    mask: int
    """Id of the mask token."""
    vocabulary: int
    """Logits of a row."""
    context: int = 1 << 30
    """Most positions of a sequence."""

    def free_bytes(self) -> int | None:
        """Bytes of memory that a forward may take. None, the default: unknown."""
        return None

    @abstractmethod
    def forward(self, requests: Sequence[Denoise]) -> list[Floats]:
        """Answer several runs' requests at once.

        Returns:
            For each request the logits, shape (its positions, vocabulary), each row at its own position.
        """


class Canvas:
    """A prompt, and after it the positions that a run writes."""

    def __init__(self, prompt: Sequence[int], length: int, mask: int) -> None:
        self.tokens = [*prompt, *[mask] * length]
        """The whole sequence."""
        self.start = len(prompt)
        """The first position that is written."""
        self.mask = mask

    def masked(self, first: int, end: int) -> list[int]:
        """The unwritten positions from `first` to before `end`."""
        return [at for at in range(first, end) if self.tokens[at] == self.mask]

    def filled(self, tokens: dict[int, int]) -> list[int]:
        """The written part if these tokens stood at its unwritten positions; others stay masked."""
        return [tokens.get(at, token) if token == self.mask else token for at, token in self._written()]

    def answer(self, eos: frozenset[int]) -> list[int]:
        """The written tokens up to the first end token, that one included."""
        return until_end(self.tokens[self.start :], eos)

    def _written(self) -> list[tuple[int, int]]:
        return list(enumerate(self.tokens))[self.start :]


def until_end(tokens: Sequence[int], eos: frozenset[int]) -> list[int]:
    """The tokens up to the first end token, that one included.

    >>> until_end([5, 1, 1], frozenset({1}))
    [5, 1]
    """
    end = next((at for at, token in enumerate(tokens) if token in eos), len(tokens) - 1)
    return list(tokens[: end + 1])
