"""From labelled runs of the traffic to a promise: what the fitting runs decide, and whether it stands.

The computations are those of `ctl calibrate --until promised` (`fitting/analyses.py`), on runs that come by themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from reasonctl.backends import Model
from reasonctl.controller import ControllerError
from reasonctl.controller.core import Fields, parse
from reasonctl.probes import ProbeExit, Promise, make_exit
from reasonctl.probes.risk import first_analysis, following

from ..fitting.analyses import analyse
from ..fitting.collecting import freeze
from ..fitting.frozen import Frozen
from ..fitting.job import CalibrationJob, content_of
from ..runs.recipe import Recipe
from ..runs.records import RunRecord
from ..tasks.graders import Grader
from ..tasks.sources import Task
from .labelling import unpacked
from .traffic import Stage

TASK = "own traffic"
"""What a card says of where the runs come from."""


def share_of(total: float, promise: int) -> float:
    """What the k-th promise may use of a level: total / 2^k, so that all of them together stay within it.

    >>> [share_of(0.1, k) for k in (1, 2)]
    [0.05, 0.025]
    """
    return float(total * 2.0**-promise)


def first_of(risk: float, confidence: float, promise: int) -> int:
    """Calibration runs at the first analysis of the k-th promise."""
    return first_analysis(risk, 1 - share_of(1 - confidence, promise))


def job_of(recipe: Recipe, grader: Grader, risk: float, confidence: float, stage: Stage) -> CalibrationJob:
    """The job whose runs are the calibration runs of a promise.

    Args:
        recipe: How the traffic's runs are made.
        grader: Says which answers are the same.
        risk: The risk that is to be promised.
        confidence: That of all promises of the store together.
        stage: Which promise it is.
    """
    promise = Promise("disagree", risk, 1 - share_of(1 - confidence, stage.promise))
    task = Task(TASK, grader, lambda n, stream: [])
    first = first_of(risk, confidence, stage.promise)
    return CalibrationJob(recipe, task, promise, n=0, out=Path("unused"), fit=0, first_analysis=first)


def plan_from(job: CalibrationJob, records: Sequence[str | None]) -> Frozen | None:
    """What fitting runs decide; None where they don't suffice.

    Args:
        job: The job of the calibration runs.
        records: The fitting runs' records, None for a run that was left.
    """
    fitting = [unpacked(text, i, job.recipe.cues[0]) for i, text in enumerate(records) if text is not None]
    try:
        return freeze(replace(job, fit=len(fitting)), fitting)
    except ControllerError:
        return None


def plan_of(text: str) -> Frozen:
    """A plan that was kept. Raises ControllerError for anything else."""
    return Frozen.from_json(Fields.of(parse(text, "the store's plan"), "the store's plan"))


def next_analysis(job: CalibrationJob, done: int) -> int:
    """Calibration runs at the analysis after the one at `done`; 0: none was made yet."""
    return following(done) if done else job.first_analysis or 1


def calibration_runs(records: Sequence[str | None], first: int, cue: str) -> list[RunRecord]:
    """The calibration runs of their records. first: the number of the first one; cue: the name of some cue."""
    return [unpacked(text, first + i, cue) for i, text in enumerate(records)]


def stands(job: CalibrationJob, frozen: Frozen, runs: list[RunRecord]) -> bool:
    """Whether the promise stands on these calibration runs, and its saving is more than chance."""
    return analyse(job, frozen, runs).is_enough


def rule_of(job: CalibrationJob, model: Model, frozen: Frozen, runs: list[RunRecord]) -> ProbeExit:
    """The exit rule of a promise that stands."""
    return make_exit(content_of(replace(job, n=len(runs)), model, runs, frozen), job.promise)
