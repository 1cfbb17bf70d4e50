"""A constraint that governs the answer and leaves the thoughts alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..candidates import Candidates
from ..draw import Row, RunContext
from ..stage import Stage


class _Place(NamedTuple):
    """Where the stage is, outside of thoughts."""

    opening: bool
    """The model has the choice of opening its thinking, or is about to."""
    state: Any
    """The constraint's state; None while the opening marker is written."""


@dataclass(frozen=True)
class AnswerOnly(Stage):
    """Another constraint, from the first token of the answer on.

    Before anything was written the model may also open its thinking. The state is None while it thinks, so the
    constraint begins anew after the thoughts.
    """

    name = "answer_only"
    kind = "constraint"
    stateful = True
    phased = True
    one_answer = True
    drafts = False  # as grammars: it takes every token that it sees for a written one
    inner: Stage
    """The constraint."""
    opening: tuple[int, ...]
    """The tokens of the marker that opens thinking."""

    def check_run(self, context: RunContext) -> None:
        self.inner.check_run(context)

    def step(self, state: _Place | None, candidates: Candidates, row: Row) -> tuple[Any, Candidates]:
        if row.phase == "think":
            return None, candidates
        written = len(row.tokens) - row.context.start
        if state is not None and state.opening and written < len(self.opening):
            return state, _only(candidates, self.opening[written])
        inner = self.inner.start() if state is None or state.opening else state.state
        held, allowed = self.inner.step(inner, candidates, row)
        if row.phase == "before" and not written and allowed.logits[self.opening[0]] == -np.inf:
            allowed.logits[self.opening[0]] = candidates.logits[self.opening[0]]
            return _Place(True, held), allowed
        return _Place(False, held), allowed

    def accept(self, state: _Place | None, candidates: Candidates, token: int) -> _Place | None:
        if state is None or (state.opening and state.state is None):
            return state
        if state.opening and token == self.opening[0]:
            return _Place(True, None)
        return _Place(False, self.inner.accept(state.state, candidates, token))

    def __str__(self) -> str:
        return str(self.inner)


def _only(candidates: Candidates, token: int) -> Candidates:
    """The candidates without all but one."""
    logits = np.full_like(candidates.logits, -np.inf)
    logits[token] = candidates.logits[token]
    return Candidates(logits)
