"""Prints what cheap rules would have done on the evaluated runs, next to the probe; the fitting is in baselines.py."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..probes.file import ProbeFile
from .baselines import Result, compare, fixed_at, fixed_curve, verdict
from .calibrate import split
from .collect import cut
from .cue_sets import with_cues
from .options import Options
from .replay import make_table
from .show import Show, percent


def cheap_rules(
    show: Show, content: ProbeFile, runs: list[dict[str, Any]] | None, records: list[dict[str, Any]], options: Options
) -> list[dict[str, Any]]:
    """Table and JSON of the probe's replay, fixed cues, cue index + word, text features (if the collected runs are
    at hand) and the oracle, on the same runs, under the same promise."""
    cues, probe = content.card.cues, content.probe
    evaluation = cut(records)
    if evaluation.offsets[-1] == 0:
        show.say("no cue was met in these runs: nothing to compare")
        return []
    judged = make_table(evaluation, probe.scores(evaluation.features), cues)
    fitting, extra = None, None
    if runs is not None:
        seen = with_cues(runs, cues, content.card.max_cues)
        parts = [cut([seen[i] for i in part]) for part in split(len(seen), content.card.seeds["seed"])]
        fitting = make_table(parts[0], probe.scores(parts[0].features), cues)
        extra = [parts[0].text, parts[1].text, evaluation.text]
    results = compare(
        fitting,
        content.table,
        judged,
        mode=options.mode,
        risk=options.risk,
        confidence=options.confidence,
        grid=content.grid,
        extra=extra,
    )
    curve = fixed_curve(judged, options.mode)
    fixed = fixed_at(curve, results[0].failed)
    show.title("what cheap rules would have done on the same runs, under the same promise")
    show.table([_row(result) for result in results], "rule", "tokens saved", "harm", "exit rate", "accuracy")
    full = float(np.mean(judged.full_tokens))
    show.say(f"best fixed cue at the probe's own failure rate (interpolated): {percent(fixed / full)}")
    show.say(verdict(results), "bold")
    named = [
        {"name": r.name, "saved": r.saved_share, "harm": r.harm, "exit_rate": r.exit_rate, "accuracy": r.accuracy}
        for r in results
    ]
    points = [{"cue": p.cue, "failed": p.failed, "saved": p.saved / full} for p in curve]
    return [*named, {"name": "fixed cue at the probe's failure rate", "saved": fixed / full, "curve": points}]


def _row(result: Result) -> list[str]:
    return [
        result.name, percent(result.saved_share), percent(result.harm), percent(result.exit_rate),
        percent(result.accuracy),
    ]  # fmt: skip
