"""Where a model thinks: its markers, and the text that closes thinking for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..core.errors import ControllerError
from .cues import TAIL

Phase = Literal["before", "think", "answer"]


@dataclass(frozen=True)
class Markers:
    """The texts that open and close the thinking span."""

    open: str
    close: str

    def __post_init__(self) -> None:
        for text in (self.open, self.close):
            if not 0 < len(text) < TAIL // 2:
                raise ControllerError(f"a thinking marker is {text!r}; it must have 1 to {TAIL // 2 - 1} characters")


@dataclass(frozen=True)
class Thinking:
    """Where a model thinks, and how thinking is closed for it.

    markers: None for a model without them: its whole completion is the span. suffix: the text that closes the span
    and opens the answer; it holds the closing marker exactly once.

    >>> Thinking(Markers("<think>", "</think>"), "</think>\\nSo ").behind
    '\\nSo '
    """

    markers: Markers | None
    suffix: str

    def __post_init__(self) -> None:
        if not self.suffix.strip():
            raise ControllerError("the exit suffix is empty; give the text that closes thinking, e.g. '</think>\\n\\n'")
        if self.markers is not None and self.suffix.count(self.markers.close) != 1:
            raise ControllerError(
                f"the exit suffix {self.suffix!r} must hold the closing marker {self.markers.close!r} exactly once"
            )

    @property
    def behind(self) -> str:
        """What the suffix puts behind the closing marker; a paragraph's break where that is nothing."""
        return (self.suffix.partition(self.markers.close)[2] if self.markers else "") or "\n\n"
