"""Where a model thinks: its markers, who opens the span, and the text that closes it for the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..core.errors import ControllerError
from .cues import TAIL

Phase = Literal["before", "think", "answer"]

Opens = Literal["prompt", "model", "start"]
"""Who opens the thinking span: the generation prompt, the model with its first text, or nobody: it begins at once."""

LONGEST_MARKER = TAIL // 2 - 1
"""Most characters of a marker. Twice as many of a run's text are stored."""


@dataclass(frozen=True)
class Markers:
    """The texts that open and close the thinking span."""

    open: str
    """Written in front of the first thought, by the prompt or by the model."""
    close: str
    """Written after the last thought."""

    def __post_init__(self) -> None:
        for text in (self.open, self.close):
            if not 0 < len(text) <= LONGEST_MARKER:
                raise ControllerError(f"a thinking marker is {text!r}; it must have 1 to {LONGEST_MARKER} characters")


@dataclass(frozen=True)
class Thinking:
    """Where a model thinks, and how thinking is closed for it.

    >>> Thinking(Markers("<think>", "</think>"), "</think>\\nSo ").after_close
    '\\nSo '
    """

    markers: Markers | None
    """The texts around its thinking. None: it has none, and its whole completion is the span."""
    suffix: str
    """The text that closes the span and opens the answer; it holds the closing marker exactly once."""
    opens: Opens = "model"
    """Who opens the span. "start": the first token is a thought, as the model never writes an opening marker.

    "prompt" and "model" are followed alike. A prompt that ends in the opening marker opens the span; else the model's
    own opening marker does. A text that begins otherwise is no thought.
    """
    ends_messages: bool = False
    """The closing marker ends other messages too, as `<|end|>` does: one outside the span means nothing."""

    def __post_init__(self) -> None:
        if not self.suffix.strip():
            raise ControllerError("the exit suffix is empty; give the text that closes thinking, e.g. '</think>\\n\\n'")
        if self.opens not in ("prompt", "model", "start"):
            raise ControllerError(f"opens is {self.opens!r}; it must be 'prompt', 'model' or 'start'")
        if self.markers is not None and self.suffix.count(self.markers.close) != 1:
            raise ControllerError(
                f"the exit suffix {self.suffix!r} must hold the closing marker {self.markers.close!r} exactly once"
            )

    @property
    def after_close(self) -> str:
        """What the suffix puts after the closing marker, or a paragraph's break."""
        return (self.suffix.partition(self.markers.close)[2] if self.markers else "") or "\n\n"
