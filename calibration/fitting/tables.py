"""Recorded runs under any signal: what it would have scored at every cue, and what its trials would have cost.

Owns the way from a collected run to looks and tables; runs no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from reasonctl.controller import Cues
from reasonctl.controller.thinking.answers import stated_answer
from reasonctl.probes.risk.give_up import LowerCurve
from reasonctl.probes.risk.table import Outcomes, Table
from reasonctl.probes.signals.observation import Observation
from reasonctl.probes.signals.signals import Signal

from ..runs.arrays import RunArrays

Floats = npt.NDArray[np.float64]


def looks_of(record: dict[str, Any], settled: Sequence[float]) -> list[Observation]:
    """A run's cues as looks, each with its trial. settled: (cues,) the probe's probabilities."""
    return [
        Observation(i, cue["position"], float(p), cue["entropy"], stated_answer(cue["answer"]), tuple(cue["logprobs"]))
        for i, (cue, p) in enumerate(zip(record["cues"], settled, strict=True))
    ]


def by_run(table: Table, values: Floats) -> list[list[float]]:
    """(cues,) values as one list per run."""
    return [part.tolist() for part in np.split(values, table.offsets[1:-1])]


def judge(signal: Signal, whole: Sequence[Observation]) -> tuple[list[float], list[bool]]:
    """(scores, whether a trial was run) at every cue of a run; the signal sees the trials that it wanted, no others."""
    seen: list[Observation] = []
    scores, tried = [], []
    for look in whole:
        seen.append(replace(look, answer=None, logprobs=()))
        wanted = signal.trials and signal.wants_trial(seen)
        if wanted:
            seen[-1] = look
        tried.append(wanted)
        scores.append(signal.score(seen))
    return scores, tried


def make_table(runs: RunArrays, settled: Any, cues: Sequence[str], domains: Sequence[str] | None = None) -> Table:
    """The table of some runs under the probe's own scores, shape (cues,). domains: their names [as they come]."""
    names, domains = Cues(cues).names, domains or sorted(set(runs.per_run("domain")))
    return Table(
        offsets=runs.offsets,
        positions=runs.per_cue("position"),
        scores=settled,
        right=runs.per_cue("right"),
        same=runs.per_cue("same"),
        exit_tokens=runs.per_cue("tokens"),
        cue_name=[names.index(name) for name in runs.per_cue("name")],
        full_right=runs.per_run("right"),
        full_tokens=runs.per_run("tokens"),
        problem=runs.per_run("problem"),
        domain=[domains.index(name) for name in runs.per_run("domain")],
        graded=all(gold is not None for gold in runs.per_run("gold")),
    )


def judged_table(signal: Signal, runs: RunArrays, table: Table) -> Table:
    """`table`, whose scores are the probe's, under another signal: its scores, and the tokens of its trials.

    A run that exits at cue j pays for the trials up to j; one that doesn't exit pays for all of them.
    """
    scores, costs = np.empty(table.cues), np.zeros(table.cues, dtype=np.int64)
    for i, (record, settled) in enumerate(zip(runs.records, by_run(table, table.scores), strict=True)):
        part = slice(int(table.offsets[i]), int(table.offsets[i + 1]))
        scores[part], tried = judge(signal, looks_of(record, settled))
        costs[part] = np.cumsum([cue["trial"] * ran for cue, ran in zip(record["cues"], tried, strict=True)])
    last = table.offsets[1:] - 1
    met = np.diff(table.offsets) > 0
    whole = np.where(met, costs[np.maximum(last, 0)] if table.cues else 0, 0)
    return replace(table, scores=scores, exit_tokens=table.exit_tokens + costs, full_tokens=table.full_tokens + whole)


def outcomes_of(judged: Table, plain: Table, threshold: float, lower: LowerCurve | None = None) -> Outcomes:
    """What a rule does to recorded runs. judged: under its signal, trials paid for; plain: the same runs without them.

    A rule that never exits tries nothing: its runs cost what plain ones do. lower: it gives up below this curve too.
    """
    exits = judged.first_exit(threshold) if lower is None else judged.first_of(threshold, lower.cues(judged))[0]
    return (judged if threshold < np.inf else plain).outcomes(exits)
