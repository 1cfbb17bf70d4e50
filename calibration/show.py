"""What people see: progress, tables and one-line verdicts. Human text on stdout, or on stderr next to --json."""

from __future__ import annotations

import json
import math
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
            sys.stdout.write(json.dumps(_finite(value), allow_nan=False) + "\n")
            sys.stdout.flush()


def _finite(value: Any) -> Any:
    """The value without infinities and NaN, which JSON doesn't have: null in their place."""
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def percent(value: float | None, signed: bool = False) -> str:
    """None: not known, for want of gold answers."""
    if value is None:
        return "not known"
    return f"{100 * value:+.1f} %" if signed else f"{100 * value:.1f} %"


def exits_where(threshold: float) -> str:
    """In a word: `never`, `always` (at the first cue), or `above` the threshold."""
    return "never" if threshold == math.inf else "always" if threshold == -math.inf else "above"


def missing_runs(more: int | None) -> str:
    """What a table says of the runs that a promise still needs: none, how many, or that no number would do."""
    return "no number would do" if more is None else f"{more}" if more else "-"


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
    _measured(show, result)
    harm, gap, helped = result["harm"], result["accuracy_difference"], result["help"]
    if gap is None:
        show.say("there are no gold answers, so nothing is said of accuracy")
        return
    show.say(
        f"accuracy difference {percent(gap['mean'], True)} (95 % interval {percent(gap['low'], True)} to "
        f"{percent(gap['high'], True)}); harm {harm['count']} of {result['n']}, help {helped['count']} of {result['n']}"
    )


FAILURES = {
    "harm": "right answers lost by an exit",
    "wrong": "exits with a wrong answer",
    "selective": "wrong answers among the exits",
    "disagree": "exits with another answer than the full run's",
    "event": "exits with a wrong answer (nothing is promised of a run)",
}


def _measured(show: Show, result: dict[str, Any]) -> None:
    """What the mode promises, and the same measured."""
    promise, failure = result["guarantee"], result["failure"]
    level = "on average" if promise["confidence"] is None else f"with confidence {promise['confidence']:g}"
    word = "promised" if promise["holds"] else "not promised here"
    of = {"selective": "exited runs", "event": "wrong cues"}.get(promise["mode"], "runs")
    domain = f" of the domain {promise['domain']!r}" if "domain" in promise else ""
    show.say(
        f"{word}: {promise['mode']} in at most {percent(promise['risk'])} of {of}{domain}, {level}"
        f"{_given_up(promise)}; "
        f"measured {FAILURES[failure['mode']]}: {failure['count']} of {failure['n']} = {percent(failure['rate'])} "
        f"(90 % upper bound {percent(failure['upper'])})",
        "bold",
    )
    for reason in promise["why_not"]:
        show.say(f"  no guarantee: {reason}")


def bound_of(promise: dict[str, Any]) -> float:
    """Most failures that a promise allows: of a rule that also gives up, the sum of both risks."""
    return float(promise["risk"]) + float(promise.get("give_up", 0.0))


def _given_up(promise: dict[str, Any]) -> str:
    if "give_up" not in promise:
        return ""
    return (
        f", and right runs given up in at most {percent(promise['give_up'])}: in at most {percent(bound_of(promise))} "
        "of runs together"
    )
