"""Both arms of an evaluation, and what was promised against what was measured."""

from __future__ import annotations

from typing import Any

from ..pages.wording import FAILURES, bound_of, percent
from .console import Console


def show_comparison(show: Console, result: dict[str, Any]) -> None:
    """Print both arms side by side, then harm and accuracy against the promise.

    Args:
        show: Where it is printed.
        result: The JSON of `ctl eval`.
    """
    base, control = result["baseline"], result["controlled"]
    saved = [1 - control[name] / base[name] if base[name] else 0.0 for name in ("tokens", "seconds")]
    rows = [
        [*_arm("without control", base), "", ""],
        [*_arm("with reasonctl", control), *(percent(-share, True) for share in saved)],
    ]
    show.table(rows, f"{result['n']} problems", "accuracy", "tokens/run", "time/run", "tokens", "time")
    exits = [f"{i + 1}:{count}" for i, count in enumerate(result["exits_at"]) if count]
    show.say(f"exit rate {percent(result['exit_rate'])}; exits at cue (cue:runs) {' '.join(exits[:14]) or 'none'}")
    show.say(_measured(result), "bold")
    for reason in result["guarantee"]["why_not"]:
        show.say(f"  no guarantee: {reason}")
    show.say(_accuracy(result))


def _arm(name: str, arm: dict[str, Any]) -> list[str]:
    return [name, percent(arm["accuracy"]), f"{arm['tokens']:.1f}", f"{1000 * arm['seconds']:.1f} ms"]


def _accuracy(result: dict[str, Any]) -> str:
    gap = result["accuracy_difference"]
    if gap is None:
        return "there are no gold answers, so nothing is said of accuracy"
    mean, low, high = (percent(gap[name], True) for name in ("mean", "low", "high"))
    harmed, helped = (f"{result[name]['count']} of {result['n']}" for name in ("harm", "help"))
    return f"accuracy difference {mean} (95 % interval {low} to {high}); harm {harmed}, help {helped}"


def _measured(result: dict[str, Any]) -> str:
    """One line: what the mode promises, and what was measured."""
    promise, failure = result["guarantee"], result["failure"]
    level = "on average" if promise["confidence"] is None else f"with confidence {promise['confidence']:g}"
    word = "promised" if promise["holds"] else "not promised here"
    of = {"selective": "exited runs", "event": "wrong cues"}.get(promise["mode"], "runs")
    domain = f" of the domain {promise['domain']!r}" if "domain" in promise else ""
    return (
        f"{word}: {promise['mode']} in at most {percent(promise['risk'])} of {of}{domain}, {level}"
        f"{_given_up(promise)}; "
        f"measured {FAILURES[failure['mode']]}: {failure['count']} of {failure['n']} = {percent(failure['rate'])} "
        f"(90 % upper bound {percent(failure['upper'])})"
    )


def _given_up(promise: dict[str, Any]) -> str:
    if "give_up" not in promise:
        return ""
    return (
        f", and right runs given up in at most {percent(promise['give_up'])}: in at most {percent(bound_of(promise))} "
        "of runs together"
    )
