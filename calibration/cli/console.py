"""The output of a command: lines, tables, progress, and with `--json` one JSON object as the last line of stdout."""

from __future__ import annotations

import json
import math
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console as RichConsole
from rich.measure import Measurement
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from ..parallel.run_jobs import ProgressCallback
from .terminal import visible

BLOCKS = 5
"""Blocks of runs whose median is the pace."""
WINDOW = 100
"""Runs that the pace is about, at most."""


class Pace:
    """The pace of the last runs: the median over some blocks of them.

    So a machine that slept, a worker that loads its model or one very long run don't spoil it. Runs before the first
    mark don't count.

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
        """Seconds of a run now.

        It is the mean until every block holds enough runs to even out the workers.

        Returns:
            The seconds. None: no run is done yet.
        """
        marks = list(self._marks)
        if len(marks) < 2 or marks[-1][1] == marks[0][1]:
            return None
        size = (len(marks) - 1) // BLOCKS
        edges = marks[:1] + marks[-1:] if size < 4 else marks[len(marks) - 1 - BLOCKS * size :: size]
        return statistics.median(
            (end - start) / max(1, more - some) for (start, some), (end, more) in zip(edges, edges[1:], strict=False)
        )

    def message(self, total: int) -> str:
        """`, 3.1 runs/s, 0:02:05 left`; empty before a run is done."""
        pace = self.seconds_per_run()
        if pace is None:
            return ""
        left = total - self._marks[-1][1]
        rate = f"{1 / pace:.1f} runs/s" if 0 < pace <= 1 else f"{60 / pace:.1f} runs/min" if pace else "at once"
        return f", {rate}, {span(pace * left)} left" if left else f", {rate}"


def span(seconds: float) -> str:
    """Seconds as hours, minutes and seconds: `0:02:05`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


_WIDEST = 10_000
"""Columns of a table in a file or a pipe, at most."""
SECONDS_BETWEEN_LINES = 10
"""Seconds between two lines of progress where there is no terminal."""


class Console:
    """Where a command prints: `say` and tables for people, and `result` for the JSON object, last.

    Others wrote much of the text. So control characters are printed as escapes, and no text is read as markup.
    """

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self.console = RichConsole(stderr=as_json, highlight=False, soft_wrap=True, markup=False, emoji=False)
        self._started = time.monotonic()

    def say(self, text: str = "", style: str | None = None) -> None:
        """Print a line."""
        self.console.print(visible(text), style=style)

    def title(self, text: str) -> None:
        """Print a heading."""
        self.console.print()
        self.console.rule(visible(text), align="left", style="dim")

    def stream(self, text: str, style: str | None = None) -> None:
        """Print a piece of an answer as it comes, without a new line."""
        self.console.print(visible(text), end="", style=style)

    def table(self, rows: list[list[str]], *head: str) -> None:
        """Print a table: its first column aligned left, the others right. Only a terminal's width folds cells."""
        table = Table(box=None, pad_edge=False, header_style="dim")
        for i, name in enumerate(head):
            table.add_column(visible(name), justify="left" if i == 0 else "right")
        for row in rows:
            table.add_row(*map(visible, row))
        if not self.console.is_terminal:
            wide = self.console.options.update(max_width=_WIDEST)
            table.width = Measurement.get(self.console, wide, table).maximum
        self.console.print(table, crop=False)

    def findings(self, title: str, rows: list[list[str]], head: Sequence[str], said: Sequence[str], note: str) -> None:
        """Print a titled table, what it says in words (the first line in bold), and what its columns mean."""
        self.title(title)
        self.table(rows, *head)
        first, *rest = said
        self.say(first, "bold")
        for line in rest:
            self.say(line)
        self.say(note, "dim")

    def elapsed(self) -> float:
        """Seconds since the command began."""
        return time.monotonic() - self._started

    @contextmanager
    def progress(self, what: str) -> Iterator[ProgressCallback]:
        """A bar on stderr while something long happens; lines now and then where there is no terminal."""
        console = RichConsole(stderr=True)
        columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[state]}")
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task(what, total=None, state="")
            pace = Pace(time.monotonic)
            shown = -float("inf")

            def update(done: int, total: int) -> None:
                nonlocal shown
                pace.mark(done)
                state = f"{done} of {total}{pace.message(total)}"
                bar.update(task, completed=done, total=total, state=state)
                now = time.monotonic()
                if not console.is_terminal and (now - shown > SECONDS_BETWEEN_LINES or done == total):
                    shown = now
                    console.print(f"{what}: {state}", highlight=False)

            yield update

    def result(self, value: dict[str, Any]) -> None:
        """Print the JSON object if it was asked for. Infinite values and NaN become null."""
        if self.as_json:
            line = json.dumps(_finite(value), allow_nan=False).replace("\x7f", "\\u007f")  # the rest is escaped already
            sys.stdout.write(line + "\n")
            sys.stdout.flush()


def _finite(value: Any) -> Any:
    """The value with None in place of infinite numbers and NaN, which JSON doesn't have."""
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
