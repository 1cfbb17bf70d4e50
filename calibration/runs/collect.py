"""Collects the runs of a job: each to its end, with exits tried at the cues that its trials name.

A job can be resumed, and runs in processes or on machines.
"""

from __future__ import annotations

import platform
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
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
from .making import windows_of
from .recipe import Recipe
from .records import CueRecord, RunRecord
from .run_file import RunFile
from .trials import EVERYWHERE, Labels, Trials
from .worker import AskedRun, collect_runs


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
    # Files from before there was a choice don't have these.
    first = {"answer_ends": "model", "form": "replace", "always_answer": False, "later_spans": False}
    for name, default in first.items():
        if shared[name] == default:
            shared.pop(name)
    roles = {"n": n, "fit": fit, "labels": labels, "stopping": None, "batch": recipe.batch}
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
    asked: Sequence[AskedRun] | None = None,
    enough: Callable[[int], bool] | None = None,
    warn: Callable[[str], None] = warnings.warn,
) -> bool:
    """Append the runs that the file doesn't hold yet, in order; False if the deadline came first.

    Args:
        recipe: How the runs are made.
        problems: All problems of the job; run i is on problem i.
        grader: What grades the answers.
        file: The open file; it holds `done` runs.
        workers: As in `run_jobs`, like `warn`.
        progress: Called after every window.
        deadline: The time, of `time.monotonic`, after which no further window of runs is written. None: no limit.
        which: At which cues exits are tried.
        asked: Which runs. Windows begin where it begins, whatever was done before. None: all runs of the job.
        enough: Asked after each run, with the number of runs in the file, whether no more are needed.
    """
    progress(done, len(problems))
    left = asked_runs(problems) if asked is None else asked
    with _running(file, recipe, left, done, which, workers, warn) as windows:
        for records in windows:
            last = next((n for n in _append(file, records, problems, grader, done) if enough and enough(n)), 0)
            progress(last or records[-1].run + 1, len(problems))
            if last:
                return True
            if deadline is not None and time.monotonic() > deadline and records[-1].run + 1 < len(problems):
                return False
    return True


def asked_runs(problems: Sequence[Problem], logged: Mapping[int, LoggedRun] | None = None) -> list[AskedRun]:
    """All runs of a job.

    Args:
        problems: Run i is on problem i.
        logged: The runs' tokens by their problems' ids, where a log has them. None: runs are decoded.
    """
    return [AskedRun(i, one.question, None if logged is None else logged.get(one.id)) for i, one in enumerate(problems)]


def _append(
    file: RunFile, records: Sequence[RunRecord], problems: Sequence[Problem], grader: Grader, done: int
) -> Iterator[int]:
    """Grade and append the runs of a window, but those that were done before it was made again.

    Yields:
        The number of runs in the file after each.
    """
    for record in records:
        if record.run >= done:
            file.append(graded(record, problems[record.run], grader))
            yield record.run + 1


def _running(
    file: RunFile,
    recipe: Recipe,
    asked: Sequence[AskedRun],
    done: int,
    which: Trials,
    workers: int | str,
    warn: Callable[[str], None],
) -> closing[Generator[list[RunRecord], None, None]]:
    """The runs of each window that isn't done, in order; those under way are dropped when it is closed."""
    identity = file.settings.get("model")
    jobs = [(identity, recipe, window, which) for window in windows_of(asked, recipe.batch) if window[-1].run >= done]
    return closing(run_jobs(collect_checked, jobs, workers=workers, warn=warn))


def collect_checked(
    identity: dict[str, str] | None, recipe: Recipe, window: Sequence[AskedRun], which: Trials = EVERYWHERE
) -> list[RunRecord]:
    """`collect_runs`, if the worker's model is the job's: another machine may hold another one under the same name."""
    check_identity(identity, recipe)
    return collect_runs(recipe, window, which)


def check_identity(identity: dict[str, str] | None, recipe: Recipe) -> None:
    """Raise ControllerError if the model that this machine has under a recipe's name isn't the job's; None: any is."""
    if identity is not None and _identity(recipe) != identity:
        raise ControllerError(
            f"the model {recipe.model!r} on {platform.node()} isn't the one that this job began with; copy it there"
        )


@cache
def _identity(recipe: Recipe) -> dict[str, str]:
    return identity_of(recipe.load())


def graded(record: RunRecord, problem: Problem, grader: Grader) -> RunRecord:
    """The record with its grades, and with the problem's gold answer and domain.

    Without a gold answer, no answer is right. A truncated answer is neither right nor the full run's: a deployed exit
    writes on, and what it would say isn't known. So a promise holds whatever that is.
    """
    known = problem.answer is not None

    def with_grades(cue: CueRecord) -> CueRecord:
        if cue.answer is None:
            return cue
        whole = cue.complete is not False  # nobody knows what an exit would say after a truncated answer
        right = whole and known and grader.right(cue.answer, problem)
        return replace(cue, right=right, same=whole and grader.same(cue.answer, record.answer, problem.question))

    return replace(
        record,
        domain=problem.domain,
        gold=problem.answer,
        right=known and grader.right(record.answer, problem),
        cues=tuple(map(with_grades, record.cues)),
        others=tuple(map(with_grades, record.others)),
    )
