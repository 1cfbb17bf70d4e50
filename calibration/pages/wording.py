"""The parts of a report: numbers of its files put into words and plain values for the page (report.html.jinja)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from reasonctl.probes.exit import answer_tokens
from reasonctl.probes.files.card import Card
from reasonctl.probes.files.probe_file import ProbeFile
from reasonctl.probes.promise import Promise
from reasonctl.probes.risk.bounds import refutes
from reasonctl.probes.risk.give_up import GiveUp
from reasonctl.probes.risk.table import NO_EXIT, Ints, Table
from reasonctl.probes.risk.threshold import Threshold, count_failures

from ..evaluation.baselines import EQUAL_COST, fixed_at, fixed_curve
from ..runs.arrays import ANSWERS_TRUNCATED, truncation_note
from ..runs.records import RunRecord
from .highlights import Example, Piece, RuleOutcome, pieces

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


def rule(judged: RuleOutcome, threshold: Threshold, lower: GiveUp | None, request: Promise) -> dict[str, Any]:
    """The rule on the calibration runs."""
    table, out = judged.table, judged.out
    failed, n = count_failures(out, request.mode)
    return {
        "exits": threshold.value < np.inf,
        "why": threshold.why if lower is None else f"{threshold.why}; {lower.why}",
        "runs": table.runs,
        "failed": failed,
        "n": n,
        "exited": int(out.exited.sum()),
        "wrong": int(out.wrong.sum()),
        "saved": judged.saved_share,
        "tokens": float(out.tokens.mean()),
        "full_tokens": float(judged.plain.mean()),
        "graded": table.graded,
        "help": int(out.help.sum()),
        "accuracy": float(table.full_right.mean()),
        "accuracy_after": float(table.full_right.mean() - out.harm.mean() + out.help.mean()),
    }


def measured(evaluation: Mapping[str, Any], request: Promise) -> dict[str, Any]:
    """What an evaluation says, and whether it contradicts the promise."""
    failure = evaluation["failure"]
    failed, of = int(failure["count"]), int(failure["n"])
    return {
        "n": int(evaluation["n"]),
        "failed": failed,
        "of": of,
        "rate": failed / of if of else 0.0,
        "upper": failure["upper"],
        "saved": saved(evaluation, "tokens"),
        "faster": saved(evaluation, "seconds"),
        # Per cue, not per run: runs can't contradict what `event` promises.
        "refuted": None if request.mode == "event" else refutes(failed, of, request.bound),
        "graded": evaluation["harm"] is not None,
        "saves_most": verdict(evaluation.get("baselines", [])),
    }


def saved(evaluation: Mapping[str, Any], what: str) -> float:
    before = float(evaluation["baseline"][what])
    return 1 - float(evaluation["controlled"][what]) / before if before else 0.0


def verdict(baselines: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The rule, which is the first row, beside the cheap rule that saves the most."""
    own, *rules = [row for row in baselines if "harm" in row] or [{}]
    cheap = [row for row in rules if row["name"] not in ("oracle", EQUAL_COST)]
    return {"rule": own, "best": max(cheap, key=lambda row: float(row["saved"]))} if cheap else None


def context(judged: RuleOutcome, hidden: Table, request: Promise) -> dict[str, float]:
    """The fixed cue at the rule's own failing share and at the risk, and the oracle; they run no trials (`hidden`)."""
    failed, n = count_failures(judged.out, request.mode)
    full = max(float(judged.plain.mean()), 1.0)
    oracle = hidden.outcomes(hidden.first_where(judged.target))
    curve = fixed_curve(hidden, request.mode)
    return {
        "fixed": fixed_at(curve, failed / n if n else 0.0) / full,
        "fixed_at_risk": fixed_at(curve, request.risk) / full,
        "oracle": 1 - float(oracle.tokens.mean()) / full,
        "cues": hidden.cues / hidden.runs,
    }


def domains(content: ProbeFile, judged: RuleOutcome, rows: Ints, request: Promise) -> list[dict[str, Any]]:
    """The rule in every domain, where there are several."""
    domain = content.table.domain[rows]
    found = []
    for i, name in enumerate(content.card.domains):
        runs = np.flatnonzero(domain == i)
        if 0 < len(runs) < judged.table.runs:
            part = judged.table.select(runs)
            failed, n = count_failures(part.outcomes(part.first_exit(judged.threshold)), request.mode)
            saved = float(judged.saved[runs].sum() / max(judged.plain[runs].sum(), 1))
            found.append({"name": name, "failed": failed, "n": n, "saved": saved})
    return found


def example(judged: RuleOutcome, content: ProbeFile, example: Example, record: RunRecord | None) -> dict[str, Any]:
    """What the page shows of one run."""
    table, run = judged.table, example.run
    part = slice(int(table.offsets[run]), int(table.offsets[run + 1]))
    exit_at = None if judged.out.cue[run] == NO_EXIT else int(judged.out.cue[run])
    length = max(int(judged.plain[run]), 1)
    low, high = span(table, judged.threshold)
    shown = ".3f" if (low, high) == (0.0, 1.0) else ".4g"
    names = [content.card.cues[i] for i in table.cue_name[part]]
    cues = [
        {
            "name": name,
            "score": f"{score:{shown}}",
            "ok": bool(ok),
            "left": 100 * int(position) / length,
            "up": height(float(score), low, high),
            "unwritten": exit_at is not None and i > exit_at,
            "exit": i == exit_at,
        }
        for i, (name, score, ok, position) in enumerate(
            zip(names, table.scores[part], judged.target[part], table.positions[part], strict=True)
        )
    ]
    before, after = 0, 0
    text: list[Piece] = []
    if record is not None:
        offsets = [cue.offset for cue in record.cues]
        before, text, after = pieces(record.text, offsets, exit_at, example.focus)
    at = part.start + (exit_at or 0)
    return {
        "title": example.title,
        "why": example.why,
        "failure": example.failure,
        "cues": cues,
        "exit_at": exit_at,
        "focus": example.focus,
        "length": length,
        "pieces": text,
        "left_out": (before, after),
        "record": record,
        "position": int(table.positions[at]) if exit_at is not None else None,
        "cost": int(judged.out.tokens[run]),
        "saved": float(judged.saved[run]) / length,
        "failed": bool(judged.failed[run]),
        "exit_right": exit_at is not None and bool(judged.target[at]),
        "full_right": bool(table.full_right[run]),
        "graded": table.graded,
        "exit_answer": record.cues[exit_at].answer if record is not None and exit_at is not None else None,
        "focus_answer": record.cues[example.focus].answer if record is not None else None,
        "level": height(judged.threshold, low, high) if np.isfinite(judged.threshold) else None,
    }


def span(table: Table, threshold: float) -> tuple[float, float]:
    """What an example's scores are drawn between: 0..1 for probabilities, the range of the table's for others."""
    values = [*table.scores.tolist(), *([threshold] if np.isfinite(threshold) else [])]
    low, high = min(values, default=0.0), max(values, default=1.0)
    if low >= 0.0 and high <= 1.0:
        return 0.0, 1.0
    return (low, high) if high > low else (low, low + 1.0)


def height(score: float, low: float, high: float) -> float:
    """In percent of the strip, with room for a dot at both ends."""
    return 8 + 84 * (score - low) / (high - low)


def percentage(value: float) -> str:
    return percent(value).replace(" ", NARROW).replace("-", "\u2212")


def share_of(value: float) -> str:
    """A share in whole or tenth percent: 5 %, 0.6 %."""
    return f"{round(100 * value, 1):g}{NARROW}%"


def number(value: float) -> str:
    return f"{value:,.0f}"


def truncation_of(card: Card) -> str | None:
    """What truncated answers mean for a probe file; None if none was truncated."""
    if ANSWERS_TRUNCATED not in card.report:
        return "how many of the tried answers were cut wasn't recorded yet when this file was made"
    return truncation_note(float(str(card.report[ANSWERS_TRUNCATED])), answer_tokens(card))


def facts(card: Card) -> dict[str, str]:
    """The card in words."""
    return {
        "model": f"{card.depth} layers of width {card.width}, fingerprint {card.fingerprint[:12]}",
        "layers": ", ".join(f"{fraction:.2f}" for fraction in card.layers) + " of depth",
        "cues": f"{', '.join(card.cues)} (at most {card.max_cues} a run)",
        "markers": " ... ".join(card.markers) if card.markers else "none",
        "suffix": repr(card.suffix),
        "sampler": ", ".join(f"{key} {value}" for key, value in card.sampler.items()),
        "tasks": f"{card.tasks}, judged by {card.grader}, at most {card.max_new_tokens} new tokens",
        "runs": ", ".join(f"{value} {key}" for key, value in card.runs.items()),
        "fit": ", ".join(
            f"{key} {value:.3f}" if isinstance(value, float) else f"{key} {value}"
            for key, value in card.report.items()
            if key != ANSWERS_TRUNCATED
        ),
        "answers": truncation_of(card) or "none of the tried ones was cut",
        "settings": ", ".join(f"{key} {value}" for key, value in card.settings.items()),
    }


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


FAILURES = {
    "harm": "right answers lost by an exit",
    "wrong": "exits with a wrong answer",
    "selective": "wrong answers among the exits",
    "disagree": "exits with another answer than the full run's",
    "event": "exits with a wrong answer (nothing is promised of a run)",
}


def bound_of(promise: dict[str, Any]) -> float:
    """Most failures that a promise allows: of a rule that also gives up, the sum of both risks."""
    return float(promise["risk"]) + float(promise.get("give_up", 0.0))
