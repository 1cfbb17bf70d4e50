"""Collects the runs of a job: each to its end, with an exit tried at every cue.

A job can be resumed, and runs in processes or on machines.
"""

from __future__ import annotations

import platform
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from functools import cache
from typing import Any

from reasonctl.backends import Model
from reasonctl.controller import ControllerError

from ..parallel.run_jobs import ProgressCallback, run_jobs
from ..tasks.graders import Grader
from ..tasks.problem import Problem
from ..tasks.sources import Task
from .logged import LoggedRun
from .recipe import Recipe
from .records import CueRecord, RunRecord
from .run_file import RunFile
from .trials import EVERYWHERE, Labels, Trials
from .worker import collect_run


def settings_of(
    recipe: Recipe, task: Task, model: Model, n: int, *, fit: int = 0, labels: Labels = "all"
) -> dict[str, Any]:
    """What two jobs must share to share a file of runs: everything that changes a record, and no path of a machine.

    Args:
        recipe: How the runs are made.
        task: Where the problems come from.
        model: The model that makes them.
        n: Number of runs.
        fit: How many of them fit. 0: nothing is fitted while collecting.
        labels: What is tried on the others.
    """
    shared = asdict(recipe)
    for machine in ("model", "backend", "threads"):
        shared.pop(machine)
    if recipe.answer_ends == "model":
        shared.pop("answer_ends")  # files from before there was a choice don't have it
    roles = {"n": n, "fit": fit, "labels": labels, "stopping": None, "batch": 1}
    return {**shared, "model": identity_of(model), "tasks": task.name, "grader": task.grader.name, **roles}


def identity_of(model: Model) -> dict[str, str]:
    """What distinguishes a model from others whose runs differ, as far as it is known without reading all weights."""
    return {"backend": model.backend, "fingerprint": model.fingerprint(), **model.settings}


def collect(
    recipe: Recipe,
    problems: Sequence[Problem],
    grader: Grader,
    file: RunFile,
    *,
    done: int,
    workers: int | str,
    progress: ProgressCallback,
    deadline: float | None = None,
    which: Trials = EVERYWHERE,
    upto: int | None = None,
    logged: Mapping[int, LoggedRun] | None = None,
    warn: Callable[[str], None] = warnings.warn,
) -> bool:
    """Append the runs that the file doesn't hold yet, in order; False if the deadline came first.

    Args:
        recipe: How the runs are made.
        problems: All problems of the job; run i is on problem i.
        grader: What grades the answers.
        file: The open file.
        done: Runs that the file holds.
        workers: As in `run_jobs`.
        progress: Called after every run.
        deadline: The time, of `time.monotonic`, after which no further run is written. None: no limit.
        which: At which cues exits are tried.
        upto: Stop before the run with this index. None: all runs of the job.
        logged: The runs' tokens by their problems' ids, where a log has them. None: runs are decoded.
        warn: Called with a message about trouble that costs time only.
    """
    jobs = _jobs(file, recipe, problems, which, logged or {})[done:upto]
    progress(done, len(problems))
    with closing(run_jobs(collect_checked, jobs, workers=workers, warn=warn)) as results:
        for i, record in zip(range(done, done + len(jobs)), results, strict=True):
            file.append(graded(record, problems[i], grader))
            progress(i + 1, len(problems))
            if deadline is not None and time.monotonic() > deadline and i + 1 < len(problems):
                return False
    return True


def _jobs(
    file: RunFile, recipe: Recipe, problems: Sequence[Problem], which: Trials, logged: Mapping[int, LoggedRun]
) -> list[tuple[Any, ...]]:
    """The arguments of `collect_checked` for every run of the job."""
    identity = file.settings.get("model")
    return [(identity, recipe, i, one.question, which, logged.get(one.id)) for i, one in enumerate(problems)]


def collect_checked(
    identity: dict[str, str] | None,
    recipe: Recipe,
    index: int,
    question: str,
    which: Trials = EVERYWHERE,
    logged: LoggedRun | None = None,
) -> RunRecord:
    """`collect_run`, if the worker's model is the job's: another machine may hold another one under the same name."""
    if identity is not None and _identity(recipe) != identity:
        raise ControllerError(
            f"the model {recipe.model!r} on {platform.node()} isn't the one that this job began with; copy it there"
        )
    return collect_run(recipe, index, question, which, logged)


@cache
def _identity(recipe: Recipe) -> dict[str, str]:
    return identity_of(recipe.load())


def graded(record: RunRecord, problem: Problem, grader: Grader) -> RunRecord:
    """The record with its grades, and with the problem's gold answer and domain.

    Without a gold answer, no answer is right.
    """
    known = problem.answer is not None

    def with_grades(cue: CueRecord) -> CueRecord:
        if cue.answer is None:
            return cue
        right = known and grader.right(cue.answer, problem)
        return replace(cue, right=right, same=grader.same(cue.answer, record.answer))

    return replace(
        record,
        domain=problem.domain,
        gold=problem.answer,
        right=known and grader.right(record.answer, problem),
        cues=tuple(map(with_grades, record.cues)),
        others=tuple(map(with_grades, record.others)),
    )
