"""Measures how long a run has been thinking."""

from __future__ import annotations

from collections.abc import Callable


class Stopwatch:
    """Seconds of thinking. It is read after a token, and never runs by itself.

    A span begins when it is first asked about, after its first forward: reading the prompt is no thinking.

    >>> watch = Stopwatch(iter([10.0, 12.5, 20.0, 21.0]).__next__, each=False)
    >>> watch.seconds(), watch.seconds()
    (0.0, 2.5)
    >>> watch.stop()
    >>> watch.seconds(), watch.seconds()
    (2.5, 3.5)
    """

    def __init__(self, clock: Callable[[], float], *, each: bool) -> None:
        """Make a watch that stands still.

        Args:
            clock: Seconds since some time, never fewer than before.
            each: Every span begins at 0.
        """
        self._clock = clock
        self._each = each
        self._before = 0.0
        """Seconds of earlier spans that count."""
        self._since: float | None = None
        self._read = 0.0

    def seconds(self) -> float:
        """Seconds of thinking so far, inside a span."""
        now = self._clock()
        if self._since is None:
            self._since = now
        self._read = self._before + now - self._since
        return self._read

    def stop(self) -> None:
        """The span is over."""
        self._before = 0.0 if self._each else self._read
        self._since = None
