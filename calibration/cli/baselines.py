"""Prints what cheap rules would have done on the evaluated runs, next to the rule; the fitting is in baselines.py."""

from __future__ import annotations

from typing import Any

import numpy as np

from reasonctl.probes.exit import ProbeExit
from reasonctl.probes.risk.table import Table

from ..evaluation.baselines import EQUAL_COST, Result, budget_of_cost, compare, evaluate, fixed_at, fixed_curve, verdict
from ..fitting.all_signals import scores_of
from ..fitting.saved_runs import halves
from ..fitting.tables import apply_to_table, make_table, outcomes_of
from ..pages.wording import percent
from ..runs.arrays import RunArrays, to_arrays
from ..runs.records import RunRecord
from .console import Console


def cheap_rules(
    show: Console, rule: ProbeExit, runs: list[RunRecord] | None, records: list[RunRecord]
) -> list[dict[str, Any]]:
    """Table and JSON of the rule, replayed (first), fixed cues, cue index + word, text features (if the collected runs
    are at hand), a budget of the rule's own cost, and the oracle; on the same runs, under the same promise."""
    content, mode = rule.content, rule.promise.mode
    cues = content.card.cues
    evaluation = to_arrays(records)
    if evaluation.offsets[-1] == 0:
        show.say("no cue was met in these runs: nothing to compare")
        return []
    plain = make_table(evaluation, scores_of(content.probe, evaluation), cues)
    own = _replayed(rule, evaluation, plain)
    fitting, extra = None, None
    if runs is not None:
        parts = _parts(rule, runs)
        fitting = make_table(parts[0], scores_of(content.probe, parts[0]), cues)
        extra = [part.text for part in (*parts, evaluation)]
    calibration = content.signal_table("hidden", rule.promise.domain).table
    results = [own] + compare(
        fitting,
        calibration,
        plain,
        rule.promise,
        grid=content.grid,
        extra=extra,
    )[1:]
    results.insert(-1, budget_of_cost(plain, float(own.tokens.mean()), mode))
    curve = fixed_curve(plain, mode)
    fixed, full = fixed_at(curve, own.failed), float(np.mean(plain.full_tokens))
    show.title("what cheap rules would have done on the same runs, under the same promise")
    show.table([_row(result, plain) for result in results], "rule", "tokens saved", mode, "exit rate", "accuracy")
    show.say(f"{EQUAL_COST!r}: closed after so many tokens that it costs what the rule does; it promises nothing.")
    show.say(f"best fixed cue at the rule's own failure rate (interpolated): {percent(fixed / full)}")
    show.say(verdict(results), "bold")
    points = [{"cue": p.cue, "failed": p.failed, "saved": p.saved / full} for p in curve]
    return [
        *(_named(result, plain) for result in results),
        {"name": "fixed cue at the probe's failure rate", "saved": fixed / full, "curve": points},
    ]


def _parts(rule: ProbeExit, runs: list[RunRecord]) -> tuple[RunArrays, RunArrays]:
    """The fitting runs, and the calibration runs that the rule's promise is made from."""
    fitting, calibration = halves(rule.content, runs)
    domain = rule.promise.domain
    if domain is not None:
        calibration = [record for record in calibration if record.domain == domain]
    return to_arrays(fitting), to_arrays(calibration)


def _replayed(rule: ProbeExit, runs: RunArrays, plain: Table) -> Result:
    """What the rule itself does to these runs: its signal, its threshold, its trials, its giving up."""
    hidden = rule.signal_name == "hidden"
    calibrated = plain if hidden else apply_to_table(rule.signal, runs, plain)
    out = outcomes_of(calibrated, plain, rule.threshold.value, rule.lower.curve if rule.lower else None)
    return evaluate("probe" if hidden else rule.signal_name, plain, out, rule.promise.mode, rule.threshold)


def _named(result: Result, table: Table) -> dict[str, Any]:
    known = table.graded
    return {
        "name": result.name,
        "saved": result.saved_share,
        "failed": result.failed,
        "exit_rate": result.exit_rate,
        "harm": result.harm if known else None,
        "accuracy": result.accuracy if known else None,
    }


def _row(result: Result, table: Table) -> list[str]:
    return [
        result.name,
        percent(result.saved_share),
        percent(result.failed),
        percent(result.exit_rate),
        percent(result.accuracy if table.graded else None),
    ]
