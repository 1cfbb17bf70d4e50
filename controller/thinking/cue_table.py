"""A Span's answers as arrays: where thousands of runs stand is one number each, and a token moves all of them at once.

The table fills as runs meet its states: a position that no run has met yet is computed by a `Span`, so the answers are
a Span's own. Where a text is such that the states become too many, its run gets a Span of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ..core.tokenizer import Tokenizer
from .cues import Cue, Cues
from .exit_form import ExitForm
from .markers import Markers, Opens, Phase
from .reduced import key_of, moved, reduced
from .span import Span

Ints = npt.NDArray[np.int32]

MOST_CELLS = 1 << 24
"""Most cells of a table: states times vocabulary."""
ALONE = -1
"""The state of a run that has a Span of its own."""


@dataclass(frozen=True)
class Passed:
    """What a token means for its run."""

    wants_row: bool = False
    """A cue ends, or may end, in the token, so its row's hidden state may be wanted."""
    cue: Cue | None = None
    """The cue that is due for a decision. Its tokens are counted from the one after this: the last one is -1."""
    phase: Phase = "think"
    """Where the run stands after the token."""

    def cue_at(self, length: int) -> Cue | None:
        """The cue with absolute indices, where the run has `length` tokens."""
        return None if self.cue is None else moved(self.cue, length)


@dataclass
class Place:
    """Where one run stands."""

    state: int
    """Number of its state in the table."""
    span: Span | None = field(default=None, repr=False)
    """The run's own Span, where the table has no room for its state."""


class CueTable:
    """Follows runs by their tokens: one at a time with `push`, or many with `push_all`. Both answer alike."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        markers: Markers | None,
        cues: Cues,
        opens: Opens = "model",
        form: ExitForm = "replace",
        *,
        vocabulary: int,
        most_cells: int = MOST_CELLS,
    ) -> None:
        """An empty table.

        Args:
            tokenizer, markers, cues, opens, form: As those of a `Span`.
            vocabulary: Number of token ids.
            most_cells: Most cells of the table, of four bytes.
        """
        self._parts = (tokenizer, markers, cues, opens, form)
        self._now = form == "append-open"
        self._vocabulary = vocabulary
        self._most = max(1, most_cells // vocabulary)
        self._spans: list[Span] = []
        self._states: dict[object, int] = {}
        self._passed: list[Passed] = [Passed()]
        """What tokens mean, each once; the first is what most mean."""
        self._numbers: dict[Passed, int] = {self._passed[0]: 0}
        self._next: Ints = np.full((0, vocabulary), ALONE, dtype=np.int32)
        """Shape (states, vocabulary): the state after a token; ALONE where that isn't known yet."""
        self._means: Ints = np.zeros((0, vocabulary), dtype=np.int32)
        """The same shape: which of `_passed` the token is."""

    @property
    def states(self) -> int:
        """States that were met so far."""
        return len(self._spans)

    def begin(self, prompt: Sequence[int]) -> Place:
        """Where a run stands at the end of its prompt."""
        span = Span(*self._parts)
        span.begin(prompt)
        return self._place(span)

    def push(self, place: Place, token: int) -> Passed:
        """Take in one run's next token."""
        if place.span is not None:
            return self._ask(place.span, token)
        state = self._known(place.state, token)
        if state == ALONE:
            place.span, place.state = reduced(self._spans[place.state]), ALONE
            return self._ask(place.span, token)
        passed = self._passed[int(self._means[place.state, token])]
        place.state = state
        return passed

    def push_all(self, places: Sequence[Place], tokens: Ints) -> list[tuple[int, Passed]]:
        """Take in the next token of many runs.

        Args:
            places: Where the runs stand; they are updated.
            tokens: The next token of each. Shape (runs,).

        Returns:
            Those whose token means something: the run's index, and what it means.
        """
        states = np.fromiter((place.state for place in places), dtype=np.int32, count=len(places))
        known = states != ALONE
        after = np.where(known, self._next[states, tokens], ALONE) if self.states else states
        means = np.where(after != ALONE, self._means[states, tokens], 0) if self.states else states
        found: list[tuple[int, Passed]] = []
        for i in np.flatnonzero(after == ALONE).tolist():
            passed = self.push(places[i], int(tokens[i]))
            if passed != self._passed[0]:
                found.append((i, passed))
        for i in np.flatnonzero((after != ALONE) & (after != states)).tolist():
            places[i].state = int(after[i])
        found += [(i, self._passed[means[i]]) for i in np.flatnonzero((after != ALONE) & (means != 0)).tolist()]
        return sorted(found, key=lambda one: one[0])

    def _ask(self, span: Span, token: int) -> Passed:
        """What a Span says of its next token, with the cue counted from the end."""
        cue = span.push(token)
        if self._now:
            cue = span.cue_now()
        return Passed(span.at_cue, None if cue is None else moved(cue, -span.next), span.phase)

    def _known(self, state: int, token: int) -> int:
        """The state after a token, computed if this is its first time; ALONE where the table is full."""
        found = int(self._next[state, token])
        if found != ALONE:
            return found
        span = reduced(self._spans[state])
        passed = self._ask(span, token)
        found = self._place(span).state
        if found != ALONE:
            self._means[state, token] = self._numbers.setdefault(passed, len(self._passed))
            if len(self._passed) < len(self._numbers):
                self._passed.append(passed)
            self._next[state, token] = found
        return found

    def _place(self, span: Span) -> Place:
        """The place of a Span, in a new state if no run was there before."""
        small = reduced(span)
        key = key_of(small)
        state = self._states.get(key)
        if state is None:
            if len(self._spans) >= self._most:
                return Place(ALONE, span)
            state = self._states[key] = len(self._spans)
            self._spans.append(small)
            self._grow()
        return Place(state)

    def _grow(self) -> None:
        """Make room for the last state."""
        if len(self._spans) <= len(self._next):
            return
        rows = min(self._most, max(16, 2 * len(self._next)))
        self._next = _with_rows(self._next, rows, ALONE)
        self._means = _with_rows(self._means, rows, 0)


def _with_rows(table: Ints, rows: int, empty: int) -> Ints:
    made = np.full((rows, table.shape[1]), empty, dtype=np.int32)
    made[: len(table)] = table
    return made
