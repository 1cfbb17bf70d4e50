"""What people see: progress, tables and one-line verdicts. Human text on stdout, or on stderr next to --json."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from .pace import Pace

Update = Callable[[int, int], None]
SECONDS_BETWEEN_LINES = 10


class Show:
    """One place for output: `say` and tables for people; `result` prints the JSON object last."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self.console = Console(stderr=as_json, highlight=False, soft_wrap=True)
        self._started = time.monotonic()

    def say(self, text: str = "", style: str | None = None) -> None:
        self.console.print(text, style=style, markup=False)

    def title(self, text: str) -> None:
        self.console.print()
        self.console.rule(text, align="left", style="dim")

    def stream(self, text: str, style: str | None = None) -> None:
        """A piece of an answer, as it comes."""
        self.console.print(text, end="", style=style, markup=False)

    def table(self, rows: list[list[str]], *head: str) -> None:
        table = Table(box=None, pad_edge=False, header_style="dim")
        for i, name in enumerate(head):
            table.add_column(name, justify="left" if i == 0 else "right")
        for row in rows:
            table.add_row(*row)
        self.console.print(table)

    def elapsed(self) -> float:
        return time.monotonic() - self._started

    @contextmanager
    def progress(self, what: str) -> Iterator[Update]:
        """A bar on stderr while something long happens; lines now and then where there is no terminal."""
        console = Console(stderr=True)
        columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[state]}")
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task(what, total=None, state="")
            pace = Pace(time.monotonic)
            shown = -float("inf")

            def update(done: int, total: int) -> None:
                nonlocal shown
                pace.mark(done)
                state = f"{done} of {total}{pace.told(total)}"
                bar.update(task, completed=done, total=total, state=state)
                now = time.monotonic()
                if not console.is_terminal and (now - shown > SECONDS_BETWEEN_LINES or done == total):
                    shown = now
                    console.print(f"{what}: {state}", highlight=False)

            yield update

    def result(self, value: dict[str, Any]) -> None:
        """The JSON object, as the last line of stdout, if it was asked for."""
        if self.as_json:
            sys.stdout.write(json.dumps(value) + "\n")
            sys.stdout.flush()


def percent(value: float, signed: bool = False) -> str:
    return f"{100 * value:+.1f} %" if signed else f"{100 * value:.1f} %"


def comparison(show: Show, result: dict[str, Any]) -> None:
    """Both arms side by side, then harm and accuracy against what was promised."""
    base, control = result["baseline"], result["controlled"]
    rows = [
        [
            "without control",
            percent(base["accuracy"]),
            f"{base['tokens']:.1f}",
            f"{1000 * base['seconds']:.1f} ms",
            "",
            "",
        ]
    ]
    saved = [1 - control[name] / base[name] if base[name] else 0.0 for name in ("tokens", "seconds")]
    rows.append([
        "with reasonctl", percent(control["accuracy"]), f"{control['tokens']:.1f}",
        f"{1000 * control['seconds']:.1f} ms",
        percent(-saved[0], True), percent(-saved[1], True),
    ])  # fmt: skip
    show.table(rows, f"{result['n']} problems", "accuracy", "tokens/run", "time/run", "tokens", "time")
    exits = [f"{i + 1}:{count}" for i, count in enumerate(result["exits_at"]) if count]
    show.say(f"exit rate {percent(result['exit_rate'])}; exits at cue (cue:runs) {' '.join(exits[:14]) or 'none'}")
    harm, promise, gap = result["harm"], result["guarantee"], result["accuracy_difference"]
    level = "on average" if promise["confidence"] is None else f"with confidence {promise['confidence']:g}"
    word = "promised" if promise["holds"] else "not promised here"
    show.say(
        f"{word}: {promise['mode']} in at most {percent(promise['risk'])} of runs, {level}"
        f"{_given_up(promise)}; "
        f"measured harm: {harm['count']} of {result['n']} = {percent(harm['rate'])} "
        f"(90 % upper bound {percent(harm['upper'])})",
        "bold",
    )
    for reason in promise["why_not"]:
        show.say(f"  no guarantee: {reason}")
    show.say(
        f"accuracy difference {percent(gap['mean'], True)} (95 % interval {percent(gap['low'], True)} to "
        f"{percent(gap['high'], True)}); help {result['help']['count']} of {result['n']}"
    )


def _given_up(promise: dict[str, Any]) -> str:
    return f", and right runs given up in at most {percent(promise['give_up'])}" if "give_up" in promise else ""
