"""Recorded runs under any signal: what it would have scored at every cue, and what its trials would have cost.

Owns the way from a collected run to observations and tables; runs no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from reasonctl.controller import Cues
from reasonctl.controller.thinking import stated_answer
from reasonctl.probes.risk import Floats64, LowerCurve, Outcomes, Table
from reasonctl.probes.signals import Observation, Signal

from ..runs.arrays import RunArrays
from ..runs.records import CueRecord, RunRecord


def observations_of(record: RunRecord, p_settled: Sequence[float]) -> list[Observation]:
    """A run's cues as observations, each with its trial. p_settled: (cues,) the probe's probabilities."""
    return [
        Observation(i, cue.position, float(p), cue.entropy, _stated(cue), cue.logprobs)
        for i, (cue, p) in enumerate(zip(record.cues, p_settled, strict=True))
    ]


def _stated(cue: CueRecord) -> str | None:
    """What the trial at a cue stated; None where there was none."""
    return None if cue.answer is None else stated_answer(cue.answer)


def by_run(table: Table, values: Floats64) -> list[list[float]]:
    """(cues,) values as one list per run."""
    return [part.tolist() for part in np.split(values, table.offsets[1:])[:-1]]


class Scored(NamedTuple):
    """A signal at every cue of one run."""

    scores: list[float]
    """The signal's scores."""
    tried: list[bool]
    """Whether the signal ran a trial there."""


def apply_to_run(signal: Signal, whole: Sequence[Observation]) -> Scored:
    """The signal at the cues of a run that holds every trial; it sees the trials that it wants, and no others."""
    seen: list[Observation] = []
    scores, tried = [], []
    for observation in whole:
        seen.append(replace(observation, answer=None, logprobs=()))
        wanted = signal.trials and signal.wants_trial(seen)
        if wanted:
            seen[-1] = observation
        tried.append(wanted)
        scores.append(signal.score(seen))
    return Scored(scores, tried)


def make_table(
    runs: RunArrays, p_settled: Floats64, cues: Sequence[str], domains: Sequence[str] | None = None
) -> Table:
    """The table of some runs under the probe's own scores.

    Args:
        runs: The runs.
        p_settled: The probe's probabilities. Shape (cues,).
        cues: The names of the cues, in the order of the card.
        domains: The names of the domains, in the order of the card. None: those of the runs, sorted.
    """
    records, names = runs.records, Cues(cues).names
    domains = domains or sorted({record.domain for record in records})
    return Table(
        offsets=runs.offsets,
        positions=np.array([cue.position for cue in runs.cues]),
        scores=p_settled,
        right=np.array([cue.right for cue in runs.cues]),
        same=np.array([cue.same for cue in runs.cues]),
        exit_tokens=np.array([cue.tokens or 0 for cue in runs.cues]),
        cue_name=np.array([names.index(cue.name) for cue in runs.cues]),
        full_right=np.array([record.right for record in records]),
        full_tokens=np.array([record.tokens for record in records]),
        problem=np.array([record.problem for record in records]),
        domain=np.array([domains.index(record.domain) for record in records]),
        graded=all(record.gold is not None for record in records),
        labelled=runs.labelled,
    )


def apply_to_table(signal: Signal, runs: RunArrays, table: Table) -> Table:
    """The table of some runs under another signal: its scores, and the tokens of its trials.

    A run that exits at cue j pays for the trials up to j; one that doesn't exit pays for all of them.

    Args:
        signal: The signal.
        runs: The runs.
        table: The same runs under the probe's own scores.

    Raises:
        ControllerError: Exits were tried at some of the cues only.
    """
    table.need_all_labels("a signal other than 'hidden'")
    scores, costs = np.empty(table.cues), np.zeros(table.cues, dtype=np.int64)
    for i, (record, p_settled) in enumerate(zip(runs.records, by_run(table, table.scores), strict=True)):
        part = slice(int(table.offsets[i]), int(table.offsets[i + 1]))
        scores[part], tried = apply_to_run(signal, observations_of(record, p_settled))
        costs[part] = np.cumsum([cue.trial * ran for cue, ran in zip(record.cues, tried, strict=True)])
    last = table.offsets[1:] - 1
    met = np.diff(table.offsets) > 0
    whole = np.where(met, costs[np.maximum(last, 0)] if table.cues else 0, 0)
    return replace(table, scores=scores, exit_tokens=table.exit_tokens + costs, full_tokens=table.full_tokens + whole)


def outcomes_of(calibrated: Table, plain: Table, threshold: float, lower: LowerCurve | None = None) -> Outcomes:
    """What a rule does to recorded runs.

    A rule that never exits tries nothing: its runs cost what plain ones do.

    Args:
        calibrated: The runs under the rule's signal, trials paid for.
        plain: The same runs without trials.
        threshold: The rule exits above it.
        lower: The rule also gives up below this curve. None: it doesn't.
    """
    if lower is None:
        exits = calibrated.first_exit(threshold)
    else:
        exits = calibrated.first_of(threshold, lower.cues(calibrated))[0]
    return (calibrated if threshold < np.inf else plain).outcomes(exits)
