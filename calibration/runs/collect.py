"""Collects runs: full ones, with a forced exit tried at every cue; resumable, in processes or on machines."""

from __future__ import annotations

import platform
import time
import warnings
from collections.abc import Callable, Sequence
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
from .recipe import Recipe
from .records import CueRecord, RunRecord
from .run_file import RunFile
from .worker import collect_run


def settings_of(recipe: Recipe, task: Task, model: Model, n: int) -> dict[str, Any]:
    """What two jobs must share to share a file of runs: everything that changes a record, and no path of a machine."""
    shared = asdict(recipe)
    for machine in ("model", "backend", "threads"):
        shared.pop(machine)
    if recipe.answer_ends == "model":
        shared.pop("answer_ends")  # files from before there was a choice don't have it
    return {**shared, "model": identity_of(model), "tasks": task.name, "grader": task.grader.name, "n": n}


def identity_of(model: Model) -> dict[str, str]:
    """What tells models apart whose runs differ, as far as that can be seen without reading all weights."""
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
    warn: Callable[[str], None] = warnings.warn,
) -> bool:
    """Append the runs that the file doesn't hold yet, in order.

    Args:
        recipe: How the runs are made.
        problems: All problems of the job; run i is on problem i.
        grader: What grades the answers.
        file: The open file.
        done: Runs that the file holds.
        workers: As in `run_jobs`.
        progress: Called after every run.
        deadline: The time, of `time.monotonic`, after which no further run is written. None: no limit.
        warn: Called with a message about trouble that costs time only.

    Returns:
        False if the deadline came first.
    """
    identity = file.settings.get("model")
    jobs = [(identity, recipe, i, problems[i].question) for i in range(done, len(problems))]
    progress(done, len(problems))
    with closing(run_jobs(collect_checked, jobs, workers=workers, warn=warn)) as results:
        for i, record in enumerate(results, start=done):
            file.append(graded(record, problems[i], grader))
            progress(i + 1, len(problems))
            if deadline is not None and time.monotonic() > deadline and i + 1 < len(problems):
                return False
    return True


def collect_checked(identity: dict[str, str] | None, recipe: Recipe, index: int, question: str) -> RunRecord:
    """`collect_run`, if the worker's model is the job's: another machine may hold another one under the same name."""
    if identity is not None and _identity(recipe) != identity:
        raise ControllerError(
            f"the model {recipe.model!r} on {platform.node()} isn't the one that this job began with; copy it there"
        )
    return collect_run(recipe, index, question)


@cache
def _identity(recipe: Recipe) -> dict[str, str]:
    return identity_of(recipe.load())


def graded(record: RunRecord, problem: Problem, grader: Grader) -> RunRecord:
    """The record with its problem's gold answer and domain, and graded; without a gold answer nothing is right."""
    known = problem.answer is not None

    def with_grades(cue: CueRecord) -> CueRecord:
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
