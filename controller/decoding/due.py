"""Says when thinking is to be closed: its tokens or its time are used up, it is in a loop, or somebody has asked."""

from __future__ import annotations

from typing import NamedTuple

from ..core.trace import Closer
from ..thinking.repeats import Repeats
from ..thinking.stopwatch import Stopwatch
from .run import RunSettings


class Due(NamedTuple):
    """Thinking is to be closed."""

    closer: Closer
    """Who closes it."""
    since: int
    """Thinking tokens at which it fell due."""


class Limits:
    """Follows one run against its limits of thinking."""

    def __init__(self, settings: RunSettings) -> None:
        self._settings = settings
        self._watch = Stopwatch(settings.now, each=settings.limits.budget_per == "span")
        self._repeats: Repeats | None = None
        """Follows the thoughts of a span where loops are to be stopped."""
        self._due: Due | None = None
        """Set from when thinking falls due until it is closed: a character may have to be finished first."""
        self.no_room = False
        """A close had no room. Nothing falls due any more."""
        self._warned = False
        """The model was warned of the budget's end, or can't be."""

    def due(self, thought: int, tokens: list[int], opened: int) -> Due | None:
        """Who wants the span closed after its last token; None if nobody does.

        Args:
            thought: Thinking tokens so far, as far as they count.
            tokens: The run's text.
            opened: Where the span begins in it.
        """
        if self._due is None and not self.no_room:
            closer = self._closer(thought, tokens, opened)
            self._due = None if closer is None else Due(closer, thought)
        return self._due

    def _closer(self, thought: int, tokens: list[int], opened: int) -> Closer | None:
        if self.asked:
            return "asked"
        if self.used_up(thought):
            return "budget"
        if len(tokens) > opened and self.time_is_up():  # reading the prompt is no thinking
            return "time"
        return "loop" if self._in_loop(tokens, opened) else None

    @property
    def asked(self) -> bool:
        """Somebody has asked for the answer."""
        return self._settings.answer_now is not None and self._settings.answer_now.asked

    def used_up(self, thought: int) -> bool:
        """So many thinking tokens use up the budget."""
        budget = self._settings.budget
        return budget is not None and thought >= budget and not self.no_room

    def warns(self, thought: int) -> bool:
        """After so many thinking tokens the model is to be warned that the budget is about to end.

        A budget of `warn_before` tokens or fewer, or what a turn's earlier calls have left of it, is too short for it.
        """
        budget, before = self._settings.budget, self._settings.limits.warn_before
        if budget is None or before is None or self._warned:
            return False
        return self._settings.spent_before < budget - before <= thought < budget

    def warned(self) -> None:
        """The model was warned, or can't be: not again before the budget begins anew."""
        self._warned = True

    def time_is_up(self) -> bool:
        """The run has thought for as many seconds as it may."""
        seconds = self._settings.limits.seconds
        return seconds is not None and self._watch.seconds() >= seconds

    def _in_loop(self, tokens: list[int], opened: int) -> bool:
        times = self._settings.limits.stop_loops
        if times is None:
            return False
        if self._repeats is None:
            self._repeats = Repeats(times, opened)
        length = self._repeats.follow(tokens)
        if length is not None:
            self._settings.trace.loop = length
        return length is not None

    def rewound(self, tokens: list[int]) -> None:
        """The text's end was taken back."""
        self._due = None
        self._repeats = self._repeats and self._repeats.rewound(tokens)

    def refused(self) -> None:
        """The close that was due has no room."""
        self.no_room = True
        self._due = None

    def over(self) -> None:
        """The span is over: the next one begins anew."""
        self._due = self._repeats = None
        self._watch.stop()
        if self._settings.limits.budget_per == "span":
            self._warned = False
