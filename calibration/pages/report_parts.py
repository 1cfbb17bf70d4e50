"""The parts of a report as plain values for its page (report.html.jinja): the rule, the evaluation, and the runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from reasonctl.probes.files.probe_file import ProbeFile
from reasonctl.probes.promise import Promise
from reasonctl.probes.risk.bounds import refutes
from reasonctl.probes.risk.give_up import GiveUp
from reasonctl.probes.risk.table import NO_EXIT, Ints, Table
from reasonctl.probes.risk.threshold import Threshold, count_failures

from ..evaluation.baselines import EQUAL_COST, fixed_at, fixed_curve
from ..runs.records import RunRecord
from .highlights import Example, RuleOutcome, excerpt


def rule(outcome: RuleOutcome, threshold: Threshold, lower: GiveUp | None, request: Promise) -> dict[str, Any]:
    """The rule on the calibration runs."""
    table, out = outcome.table, outcome.out
    failed, n = count_failures(out, request.mode)
    return {
        "exits": threshold.value < np.inf,
        "why": threshold.why if lower is None else f"{threshold.why}; {lower.why}",
        "runs": table.runs,
        "failed": failed,
        "n": n,
        "exited": int(out.exited.sum()),
        "wrong": int(out.wrong.sum()),
        "saved": outcome.saved_share,
        "tokens": float(out.tokens.mean()),
        "full_tokens": float(outcome.plain.mean()),
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
    """The rule, which is the first row, next to the baseline rule that saves the most."""
    own, *rules = [row for row in baselines if "harm" in row] or [{}]
    baselines_only = [row for row in rules if row["name"] not in ("oracle", EQUAL_COST)]
    return {"rule": own, "best": max(baselines_only, key=lambda row: float(row["saved"]))} if baselines_only else None


def context(outcome: RuleOutcome, hidden: Table, request: Promise) -> dict[str, float]:
    """The fixed cue at the rule's own failing share and at the risk, and the oracle; they run no trials (`hidden`)."""
    failed, n = count_failures(outcome.out, request.mode)
    full = max(float(outcome.plain.mean()), 1.0)
    oracle = hidden.outcomes(hidden.first_where(outcome.target))
    curve = fixed_curve(hidden, request.mode)
    return {
        "fixed": fixed_at(curve, failed / n if n else 0.0) / full,
        "fixed_at_risk": fixed_at(curve, request.risk) / full,
        "oracle": 1 - float(oracle.tokens.mean()) / full,
        "cues": hidden.cues / hidden.runs,
    }


def domains(content: ProbeFile, outcome: RuleOutcome, rows: Ints, request: Promise) -> list[dict[str, Any]]:
    """The rule in every domain, where there are several."""
    domain = content.table.domain[rows]
    found = []
    for i, name in enumerate(content.card.domains):
        runs = np.flatnonzero(domain == i)
        if 0 < len(runs) < outcome.table.runs:
            part = outcome.table.select(runs)
            failed, n = count_failures(part.outcomes(part.first_exit(outcome.threshold)), request.mode)
            saved = float(outcome.saved[runs].sum() / max(outcome.plain[runs].sum(), 1))
            found.append({"name": name, "failed": failed, "n": n, "saved": saved})
    return found


def example(outcome: RuleOutcome, content: ProbeFile, example: Example, record: RunRecord | None) -> dict[str, Any]:
    """What the page shows of one run. record: the collected run, if it is at hand."""
    table, run = outcome.table, example.run
    exit_at = None if outcome.out.cue[run] == NO_EXIT else int(outcome.out.cue[run])
    length = max(int(outcome.plain[run]), 1)
    low, high = span(table, outcome.threshold)
    at = int(table.offsets[run]) + (exit_at or 0)
    return {
        "title": example.title,
        "why": example.why,
        "failure": example.failure,
        "cues": _cues(outcome, content, run, exit_at),
        "exit_at": exit_at,
        "focus": example.focus,
        "length": length,
        "record": record,
        "position": int(table.positions[at]) if exit_at is not None else None,
        "cost": int(outcome.out.tokens[run]),
        "saved": float(outcome.saved[run]) / length,
        "failed": bool(outcome.failed[run]),
        "exit_right": exit_at is not None and bool(outcome.target[at]),
        "full_right": bool(table.full_right[run]),
        "graded": table.graded,
        "level": height(outcome.threshold, low, high) if np.isfinite(outcome.threshold) else None,
        **_written(record, exit_at, example.focus),
    }


def _cues(outcome: RuleOutcome, content: ProbeFile, run: int, exit_at: int | None) -> list[dict[str, Any]]:
    """The cues of a run, as dots on its strip."""
    table = outcome.table
    part = slice(int(table.offsets[run]), int(table.offsets[run + 1]))
    length = max(int(outcome.plain[run]), 1)
    low, high = span(table, outcome.threshold)
    shown = ".3f" if (low, high) == (0.0, 1.0) else ".4g"
    names = [content.card.cues[i] for i in table.cue_name[part]]
    rows = zip(names, table.scores[part], outcome.target[part], table.positions[part], strict=True)
    return [
        {
            "name": name,
            "score": f"{score:{shown}}",
            "ok": bool(ok),
            "left": 100 * int(position) / length,
            "up": height(float(score), low, high),
            "unwritten": exit_at is not None and i > exit_at,
            "exit": i == exit_at,
        }
        for i, (name, score, ok, position) in enumerate(rows)
    ]


def _written(record: RunRecord | None, exit_at: int | None, focus: int) -> dict[str, Any]:
    """What the page shows of a run's text and trial answers; empty where the record isn't at hand."""
    if record is None:
        return {"pieces": [], "left_out": (0, 0), "exit_answer": None, "focus_answer": None}
    cues = record.cues
    before, text, after = excerpt(record.text, [cue.offset for cue in cues], exit_at, focus)
    return {
        "pieces": text,
        "left_out": (before, after),
        "exit_answer": None if exit_at is None else cues[exit_at].answer,
        "focus_answer": cues[focus].answer,
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
