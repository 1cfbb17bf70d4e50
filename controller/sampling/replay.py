"""A policy that writes a given text, and measures how well the distribution that it would draw from explains the text.

With the text as its draft (`drafting/known_text.py`) the loop reads a run that was made elsewhere in few forwards.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from ..core.decode import Floats
from .candidates import Candidates
from .draw import Row
from .policy import Policy, StatefulWrapper, WrapperState


@dataclass
class Explained:
    """How well a policy explains a text: a sum over tokens of what was met and of what was to be expected.

    If the policy drew the text, `surprisal - expected` is a martingale: each token adds its surprisal less the entropy
    of what it was drawn from, which has mean 0 and the variance that is summed here.
    """

    tokens: int = 0
    """Tokens that the policy could have drawn."""
    impossible: int = 0
    """Further tokens, which it could not: their probability is 0, or the policy takes the largest and it is another."""
    surprisal: float = 0.0
    """Sum of -ln p of the tokens, in nats."""
    expected: float = 0.0
    """Sum of the entropies of the distributions, in nats: the surprisal to be expected."""
    variance: float = 0.0
    """Variance of `surprisal`, in nats squared."""

    def add(self, candidates: Candidates, token: int) -> None:
        """Count a token of the text, and the candidates that the policy would have drawn from."""
        surprise, position = candidates.surprise(), candidates.position(token)
        met = position < len(surprise) and candidates.token(position) == token and bool(np.isfinite(surprise[position]))
        if not met:
            self.impossible += 1
            return
        known = np.isfinite(surprise)
        probs, surprise_of = candidates.weights[known] / candidates.mass, surprise[known]
        mean = float(probs @ surprise_of)
        self.tokens += 1
        self.surprisal += float(surprise[position])
        self.expected += mean
        self.variance += max(0.0, float(probs @ surprise_of**2) - mean**2)

    def __add__(self, other: Explained) -> Explained:
        """The sum over the tokens of both texts."""
        return Explained(
            self.tokens + other.tokens,
            self.impossible + other.impossible,
            self.surprisal + other.surprisal,
            self.expected + other.expected,
            self.variance + other.variance,
        )

    def choice(self, same: bool) -> None:
        """Count a token where the policy takes the largest: whether it is the text's."""
        if same:
            self.tokens += 1
        else:
            self.impossible += 1


class Replay(StatefulWrapper):
    """Writes a text, then an end; draws as the inner policy does wherever the run has left the text, as in a trial.

    Its own state is the number of the text's tokens so far; None: the text was left.
    """

    def __init__(self, inner: Policy, text: Sequence[int], ends: Collection[int]) -> None:
        """Prepare for one run.

        Args:
            inner: The policy that is said to have drawn the text; it draws the answers of trials.
            text: The run's tokens after its prompt.
            ends: Tokens that end a run. Which of them ended the text isn't known: the most probable one is written.
        """
        super().__init__(inner)
        self.text = text
        self.ends = sorted(ends)
        self.explained = Explained()

    def begin(self) -> int:
        return 0

    def step(self, state: WrapperState, row: Row) -> tuple[WrapperState, int]:
        # Each token of the text has its place. A trial begins with tokens that no policy drew, so its rows lie further.
        written = state.own
        if written is None or row.context.start + written != len(row.tokens):
            inner, token = self.inner.step(state.inner, row)
            return WrapperState(inner, None), token
        token = self.text[written] if written < len(self.text) else self._end(row.logits)
        explained = self.explained
        before = explained.tokens + explained.impossible
        inner, drawn = self.inner.step(state.inner, _GivenRow.of(row, token, explained))
        if explained.tokens + explained.impossible == before:
            explained.choice(drawn == token)
        return WrapperState(inner, written + 1), token

    def _end(self, logits: Floats) -> int:
        return max(self.ends, key=lambda token: float(logits[token]))


class _GivenRow(Row):
    """A row whose token is known: drawing from it gives that token, and counts how well the candidates explain it."""

    __slots__ = ("explained", "given")

    given: int
    """The token."""
    explained: Explained
    """Where it is counted."""

    @classmethod
    def of(cls, row: Row, given: int, explained: Explained) -> _GivenRow:
        """The same row with its token."""
        made = cls(row._step, row._node, row.tokens, row.phase, row.keys, row.context, row.score)
        made.given, made.explained = given, explained
        return made

    def draw(self, candidates: Candidates) -> int:
        self.explained.add(candidates, self.given)
        return self.given

    def replaced(self, logits: Floats) -> Row:
        return _GivenRow.of(super().replaced(logits), self.given, self.explained)
