"""Collecting a job's runs in two parts: those that fit, then the plan, then those that calibrate.

Owns the order, so that nothing can be chosen after a calibration run was seen.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from reasonctl.controller import ControllerError

from ..parallel.run_jobs import ProgressCallback
from ..runs.arrays import RunArrays, to_arrays
from ..runs.collect import asked_runs, collect
from ..runs.cue_sets import with_cues
from ..runs.records import RunRecord
from ..runs.run_file import RunFile
from ..runs.trials import EVERYWHERE, Trials, often
from ..tasks.problem import Problem
from .all_signals import freeze_signals
from .choose_cues import choose_cues
from .choose_suffix import TRIED_RUNS
from .frozen import Frozen
from .job import CalibrationJob


def collect_job(
    job: CalibrationJob,
    file: RunFile,
    problems: Sequence[Problem],
    *,
    done: int,
    workers: int | str,
    progress: ProgressCallback,
    deadline: float | None = None,
    enough: Callable[[int], bool] | None = None,
    warn: Callable[[str], None] = warnings.warn,
) -> bool:
    """Append the runs that the file doesn't hold yet, and the plan between its two parts.

    The arguments are those of `collect`; `enough` is asked about calibration runs only. A job without fitting runs has
    no plan: its exits are tried at every cue.

    Returns:
        False if the deadline came first.

    Raises:
        ControllerError: Nothing can be fitted on the fitting runs, or the file holds another job's plan.
    """

    grader = job.task.grader
    go_on = partial(collect, workers=workers, progress=progress, deadline=deadline, warn=warn)
    asked = asked_runs(problems, job.logged)
    tried = min(TRIED_RUNS, job.fit) if job.closings else 0  # the job has these, and its windows begin after them
    if done < job.fit and not go_on(
        job.recipe, problems, grader, file, done=done, which=fitting_trials(job), asked=asked[tried : job.fit]
    ):
        return False
    if not job.fit:
        return go_on(job.recipe, problems, grader, file, done=done, asked=asked)
    go_on = partial(go_on, done=max(done, job.fit), asked=asked[job.fit :], enough=enough)
    frozen, recipe = plan_of(job, file), job.recipe
    if frozen.floor is None:
        return go_on(recipe, problems, grader, file, which=Trials("all", frozen.probe))
    which = Trials("records", frozen.probe, frozen.floor)
    return go_on(replace(recipe, cues=frozen.cues), problems, grader, file, which=which)


def fitting_trials(job: CalibrationJob) -> Trials:
    """Where exits are tried on fitting runs: at every cue if cues are chosen, or everything is wanted; else at few."""
    if job.labels == "all" or job.choose_cues or not job.fit:
        return EVERYWHERE
    return Trials("few", often=often(job.fit))


def plan_of(job: CalibrationJob, file: RunFile) -> Frozen:
    """The plan of an open file that holds the fitting runs: read back, or made and written if there is none yet."""
    found = file.read_plan()
    if found is None:
        frozen = freeze(job, file.read()[: job.fit])
        file.append_plan(frozen.to_json())
        return frozen
    frozen = Frozen.from_json(found)
    frozen.check(None if job.choose_cues else job.recipe.cues, job.promise, job.recipe.form)
    return frozen


def freeze(job: CalibrationJob, fitting: Sequence[RunRecord]) -> Frozen:
    """What the fitting runs decide.

    Raises:
        ControllerError: They are too few, or met no cue.
    """
    cues, seed = job.recipe.cues, job.recipe.seed
    try:
        if job.choose_cues:
            cues = choose_cues(fitting, job.promise, seed=seed, max_cues=job.recipe.max_cues).cues
            fitting = with_cues(fitting, cues, job.recipe.max_cues)
        runs = to_arrays(fitting)
        _check_cues(cues, runs)
        return replace(freeze_signals(runs, cues, job.promise, job.labels, seed=seed), form=job.recipe.form)
    except ControllerError as error:
        raise ControllerError(f"{error} (the first {job.fit} runs fit; more of them: --fit, with --force)") from None


def _check_cues(cues: Sequence[str], fitting: RunArrays) -> None:
    if fitting.offsets[-1] == 0:
        raise ControllerError(
            f"no cue ({', '.join(cues)}) was met while thinking in {len(fitting.records)} runs, so "
            "nothing can be fitted; name cues that this model writes with --cues (words, 'paragraph', 'sentence')"
        )
