"""How fast a job goes and how long it will still take, told from a monotonic clock."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Callable

BLOCKS = 5
WINDOW = 100


class Pace:
    """The pace of the last runs: the median of some blocks of them, so that a machine that slept, a worker that
    loads its model, or one very long run doesn't spoil it.

    Runs that were there before the first mark don't count.

    >>> clock = iter([0.0, 8.0, 10.0, 12.0])
    >>> pace = Pace(lambda: next(clock))
    >>> for done in (300, 301, 302, 303):
    ...     pace.mark(done)
    >>> pace.seconds_per_run()
    4.0
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._marks: deque[tuple[float, int]] = deque(maxlen=WINDOW + 1)

    def mark(self, done: int) -> None:
        """So many runs are done now."""
        self._marks.append((self._clock(), done))

    def seconds_per_run(self) -> float | None:
        """None before a run is done here. The plain mean until every block holds enough runs to even out workers."""
        marks = list(self._marks)
        if len(marks) < 2 or marks[-1][1] == marks[0][1]:
            return None
        size = (len(marks) - 1) // BLOCKS
        edges = marks[:1] + marks[-1:] if size < 4 else marks[len(marks) - 1 - BLOCKS * size :: size]
        return statistics.median(
            (end - start) / max(1, more - some) for (start, some), (end, more) in zip(edges, edges[1:], strict=False)
        )

    def told(self, total: int) -> str:
        """`, 3.1 runs/s, 0:02:05 left`, or nothing if that can't be said."""
        pace = self.seconds_per_run()
        if pace is None:
            return ""
        left = total - self._marks[-1][1]
        rate = f"{1 / pace:.1f} runs/s" if 0 < pace <= 1 else f"{60 / pace:.1f} runs/min" if pace else "at once"
        return f", {rate}, {span(pace * left)} left" if left else f", {rate}"


def span(seconds: float) -> str:
    """Hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
