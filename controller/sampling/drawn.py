"""A policy around another one that hands out what each token is drawn from, for calls that ask for probabilities."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .candidates import Candidates
from .draw import Row
from .policy import Policy, PolicyWrapper

See = Callable[[int, Candidates], None]
"""Given a token's position in the text, and what it is drawn from."""


class Shown(PolicyWrapper):
    """Draws as the inner policy does, and shows the candidates of each draw first. A token taken back is shown again.

    Raises:
        ControllerError: from `step`, where the inner policy doesn't say its distribution.
    """

    def __init__(self, inner: Policy, see: See) -> None:
        super().__init__(inner)
        self._see = see

    def step(self, state: Any, row: Row) -> tuple[Any, int]:
        self._see(len(row.tokens), self.inner.distribution(state, row))
        return self.inner.step(state, row)
