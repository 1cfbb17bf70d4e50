"""Early commit: from a step's distributions to one number, and the threshold past which the whole answer is written."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..core.errors import ControllerError
from ..core.tokenizer import Tokenizer
from .canvas import until_end


class Unsure(NamedTuple):
    """What a signal may read at one step."""

    tokens: Sequence[int]
    """The canvas with the most probable token at every unwritten position: the answer that a commit would give."""
    confidence: Sequence[float]
    """The probability of each of them; 1 where the token was written before."""
    before: Sequence[Sequence[int]]
    """`tokens` of the earlier steps, the latest last."""


@dataclass(frozen=True)
class AnswerAfter:
    """Finds the answer in a canvas: what follows the last `marker`, up to the end token."""

    tokenizer: Tokenizer
    """The model's."""
    marker: str
    """The text before the answer, such as `The answer is`."""
    eos: frozenset[int]
    """Tokens that end a text."""

    def find(self, tokens: Sequence[int]) -> list[int]:
        """Indices of the answer's tokens; none where the marker isn't there."""
        text = self.tokenizer.decode(list(tokens)) if tokens else ""
        if self.marker not in text:
            return []
        inside = until_end(tokens, self.eos)
        low, high = 0, len(inside)  # the shortest beginning that holds as many markers as the whole
        wanted = self.tokenizer.decode(inside).count(self.marker)
        if not wanted:
            return []
        while low < high:
            middle = (low + high) // 2
            if self.tokenizer.decode(inside[:middle]).count(self.marker) < wanted:
                low = middle + 1
            else:
                high = middle
        return list(range(low, len(inside)))


class Signal(ABC):
    """From one step of a run to a number; larger means that a commit is safer."""

    @abstractmethod
    def score(self, step: Unsure) -> float:
        """The number at this step."""


@dataclass(frozen=True)
class Confidence(Signal):
    """The least probability of a token of the answer span; without a span, of all tokens up to the end token."""

    span: AnswerAfter | None = None
    """Where the answer stands; None: everything."""
    eos: frozenset[int] = frozenset()
    """Tokens that end a text, where there is no span."""

    def score(self, step: Unsure) -> float:
        if self.span is not None:
            found = self.span.find(step.tokens)
        else:
            found = list(range(len(until_end(step.tokens, self.eos))))
        return float(min((step.confidence[at] for at in found), default=0.0))


@dataclass(frozen=True)
class Stability(Signal):
    """For how many steps in a row the answer span has been what it is, plus the span's least probability.

    The probability, below 1, breaks ties between equal numbers of steps.
    """

    span: AnswerAfter
    """Where the answer stands."""

    def score(self, step: Unsure) -> float:
        now = self._answer(step.tokens)
        if not now:
            return 0.0
        same = 0
        for earlier in reversed(step.before):
            if self._answer(earlier) != now:
                break
            same += 1
        return same + min(Confidence(self.span).score(step), float(np.nextafter(1.0, 0.0)))

    def _answer(self, tokens: Sequence[int]) -> list[int]:
        return [tokens[at] for at in self.span.find(tokens)]


@dataclass(frozen=True)
class Commit:
    """Write all masks at once, with their most probable tokens, at the first step whose signal is above a threshold.

    `probes.risk.choose_threshold` gives the threshold that calibration runs allow for a risk.

    Raises:
        ControllerError: The threshold is no number.
    """

    signal: Signal
    """What is compared."""
    threshold: float = float("inf")
    """+inf: never; signals are recorded all the same."""

    def __post_init__(self) -> None:
        if np.isnan(self.threshold):
            raise ControllerError("the threshold of a commit is NaN; give a number, or inf for never")
