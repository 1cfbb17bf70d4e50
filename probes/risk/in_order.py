"""Runs that end in any order, taken in in the order in which they began."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class _Place:
    """One run's place in the order."""

    run: object
    """Whose it is."""
    take: Callable[[], None] | None = None
    """Takes the run in. None: it hasn't ended."""


class InOrder:
    """The runs that have begun; a run that ends first waits for those that began before it.

    In order of their ends short runs would come first, and a statistic of the first n runs would be one of short runs.

    >>> taken, order = [], InOrder()
    >>> first, second = object(), object()
    >>> order.begin(first), order.begin(second)
    (None, None)
    >>> order.end(second, lambda: taken.append("second")); taken
    []
    >>> order.end(first, lambda: taken.append("first")); taken
    ['first', 'second']
    """

    def __init__(self) -> None:
        self._places: deque[_Place] = deque()
        """From the first run that hasn't ended on."""

    def begin(self, run: object) -> None:
        """Give a run its place: after all that have begun. It must end, or those after it wait for ever."""
        self._places.append(_Place(run))

    def end(self, run: object, take: Callable[[], None]) -> None:
        """Take a run in when its turn comes, with those that waited for it; a run without a place is taken at once."""
        place = next((place for place in self._places if place.run is run), None)
        if place is None:
            take()
            return
        place.take = take
        while self._places and (ready := self._places[0].take) is not None:
            self._places.popleft()
            ready()
