"""Numbers, promises and cards in words: what commands print and pages show."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from reasonctl.controller import AnswerEnds
from reasonctl.controller.thinking import FORM_MEANS
from reasonctl.probes import Promise, answer_tokens
from reasonctl.probes.files import Card

from ..runs.arrays import ANSWERS_TRUNCATED, truncation_note
from ..runs.logged import SOURCE
from ..runs.room import LEFT_OUT, SHORTENED

SHOWN_RISKS = (0.01, 0.02, 0.05, 0.1, 0.2)
"""Risks that a table shows, next to the one that is asked for."""

NARROW = "\u202f"
"""A space that doesn't break: a number stays with its unit."""

FAIL = {
    "harm": "lose a right answer by stopping early",
    "wrong": "stop early with a wrong answer",
    "selective": "give a wrong answer",
    "disagree": "stop early with another answer than the full run's",
    "event": "stop early with a wrong answer",
}


FAILED = {
    "harm": "lost a right answer by stopping early",
    "wrong": "stopped early with a wrong answer",
    "selective": "gave a wrong answer",
    "disagree": "stopped early with another answer than the full run's",
    "event": "stopped early with a wrong answer",
}


def promise(request: Promise) -> str:
    """The promise as one sentence."""
    share = share_of(request.risk)
    if request.mode == "event":
        return f"Of all cues with a wrong answer, at most {share} are let through. Nothing is promised for a run."
    of = "Of the runs that stop early, at most" if request.mode == "selective" else "At most"
    runs = "" if request.mode == "selective" else " of runs"
    if request.give_up is None:
        return f"{of} {share}{runs} {FAIL[request.mode]}."
    return (
        f"{of} {share}{runs} {FAIL[request.mode]}, and at most {share_of(request.give_up)} more by giving up on runs "
        f"that look hopeless: at most {share_of(request.bound)} together."
    )


def level(request: Promise) -> str:
    """What the confidence means."""
    if request.confidence is None or request.mode == "event":
        return "On average over calibrations: this one may lie a little above or below."
    return (
        f"With confidence {share_of(request.confidence)}: of all calibrations made this way, at least "
        f"{share_of(request.confidence)} keep what they promise."
    )


def percentage(value: float) -> str:
    """A share in percent, with signs for print."""
    return percent(value).replace(" ", NARROW).replace("-", "\u2212")


def share_of(value: float) -> str:
    """A share in whole or tenth percent: 5 %, 0.6 %."""
    return f"{round(100 * value, 1):g}{NARROW}%"


def number(value: float) -> str:
    """A whole number with commas between thousands."""
    return f"{value:,.0f}"


def truncation_of(card: Card) -> str | None:
    """What truncated answers mean for a probe file; None if none was truncated."""
    if ANSWERS_TRUNCATED not in card.report:
        return "how many of the tried answers were truncated wasn't recorded yet when this file was made"
    return truncation_note(float(str(card.report[ANSWERS_TRUNCATED])), answer_tokens(card))


def ends_of(answer_ends: AnswerEnds) -> str:
    """What ends an answer, in words."""
    return {
        "model": "the model ends the answer",
        "line": "the answer ends with its line",
        "box": "the answer ends where its box closes",
    }[answer_ends]


def room_of(card: Card) -> str:
    """What the card says of questions and runs that were too long for the context; empty if there were none."""
    out, ended = card.report.get(LEFT_OUT), card.report.get(SHORTENED)
    text = f"; {out} question{'' if out == 1 else 's'} too long for the context left out" if out else ""
    return text + (f"; the context had room for fewer new tokens in {ended} of all" if ended else "")


def source_of(card: Card) -> str:
    """What the card says of the log that had the runs; empty if they were decoded."""
    source = card.report.get(SOURCE)
    return f"; read from {source}" if source else ""


def stopping_of(card: Card) -> str:
    """How many calibration runs there are, and why so many, in one sentence."""
    design = card.stopping
    if design is None or (design.design == "fixed" and not design.analyses[1:]):
        return "the number of calibration runs was fixed before the first of them"
    at = f"{', '.join(map(str, design.analyses[:-1]))} and {design.runs}" if design.analyses[1:] else str(design.runs)
    if design.design == "fixed":
        return (
            f"the number of calibration runs was raised after results were seen ({at}), so what is promised uses only "
            "the chance of error that the smaller numbers left over"
        )
    return (
        f"collecting could stop as soon as enough was known, and did at {design.runs} calibration runs; the allowed "
        f"chance of error is shared out among the counts (at {at}), so what is promised holds wherever it stopped"
    )


def ways_of(card: Card) -> str:
    """What was asked for in the calibration runs and is off by default."""
    return "; under always_answer" * card.always_answer + "; exits in every span" * card.later_spans


def facts(card: Card) -> dict[str, str]:
    """The card in words."""
    return {
        "model": f"{card.depth} layers of width {card.width}, fingerprint {card.fingerprint[:12]}",
        "layers": ", ".join(f"{fraction:.2f}" for fraction in card.layers) + " of depth",
        "cues": f"{', '.join(card.cues)} (at most {card.max_cues} a run)",
        "markers": " ... ".join(card.markers) if card.markers else "none",
        "suffix": f"{card.suffix!r}; {ends_of(card.answer_ends)}",
        "form": f"{card.form}: {FORM_MEANS[card.form]}",
        "sampler": ", ".join(f"{key} {value}" for key, value in card.sampler.items()),
        "tasks": f"{card.tasks}, graded by {card.grader}, at most {card.max_new_tokens} new tokens",
        "runs": ", ".join(f"{value} {key}" for key, value in card.runs.items())
        + source_of(card)
        + room_of(card)
        + ways_of(card),
        "stopping": stopping_of(card),
        "fit": ", ".join(
            f"{key} {value:.3f}" if isinstance(value, float) else f"{key} {value}"
            for key, value in card.report.items()
            if key not in (ANSWERS_TRUNCATED, LEFT_OUT, SHORTENED, SOURCE)
        ),
        "answers": truncation_of(card) or "none of the tried ones was truncated",
        "settings": ", ".join(f"{key} {value}" for key, value in card.settings.items()),
    }


def percent(value: float | None, signed: bool = False) -> str:
    """None: not known, for want of gold answers.

    >>> percent(-0.0001, signed=True)
    '+0.0 %'
    """
    if value is None:
        return "not known"
    return f"{100 * value:+z.1f} %" if signed else f"{100 * value:z.1f} %"


def exits_where(threshold: float) -> str:
    """In a word: `never`, `always` (at the first cue), or `above` the threshold."""
    return "never" if threshold == math.inf else "always" if threshold == -math.inf else "above"


def missing_runs(more: int | None) -> str:
    """What a table says of the runs that a promise still needs: none, how many, or that no number would do."""
    return "no number would do" if more is None else f"{more}" if more else "-"


FAILURES = {
    "harm": "right answers lost by an exit",
    "wrong": "exits with a wrong answer",
    "selective": "wrong answers among the exits",
    "disagree": "exits with another answer than the full run's",
    "event": "exits with a wrong answer (nothing is promised of a run)",
}


def bound_of(promise: Mapping[str, Any]) -> float:
    """Most failures that a promise allows: of a rule that also gives up, the sum of both risks."""
    return float(promise["risk"]) + float(promise.get("give_up", 0.0))
