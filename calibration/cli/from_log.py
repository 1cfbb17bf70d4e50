"""`ctl calibrate --runs`: the job's runs are read from a log instead of decoded."""

from __future__ import annotations

from dataclasses import replace

import click

from reasonctl.backends import Model
from reasonctl.controller import ControllerError
from reasonctl.controller.core import file_name
from reasonctl.controller.thinking import Format

from ..fitting.job import CalibrationJob
from ..runs.own_runs import OwnRuns, check_own, own_runs
from ..runs.splits import calibration_stream
from ..tasks.graders import MATH, load_grader
from ..tasks.problem import Problem
from ..tasks.run_logs import read_log
from ..tasks.sources import Task, load_task
from .console import Console
from .options import Options

NO_ANSWER = "a question that isn't among the --tasks"
SEARCHED = 64
"""Problems of an endless task that are searched for each run of the log."""


def task_of(tasks: str | None, runs: tuple[str, ...], options: Options) -> Task:
    """The task that grades the answers: the one that is asked for, or the log's own questions without right answers.

    Raises:
        click.UsageError: Neither is given, or an option means nothing with a log.
        ControllerError: The task can't be read, or a log without right answers can't keep the promise's mode.
    """
    if runs:
        options.refuse("ctl calibrate --runs", "draft", because="the log's own tokens are the draft")
    if tasks is not None:
        return load_task(tasks, grader=options.grader, gold=options.mode != "disagree")
    if not runs:
        raise click.UsageError("Missing option '--tasks'.")
    if options.mode != "disagree":
        raise ControllerError(
            f"--mode {options.mode} needs right answers, and a log has none; give --tasks with them, or --mode disagree"
        )
    grader = load_grader(options.grader) if options.grader else MATH
    return Task(", ".join(map(file_name, runs)), grader, lambda n, stream: [])


def with_log(
    show: Console, plan: CalibrationJob, model: Model, found: Format, runs: tuple[str, ...], options: Options
) -> CalibrationJob:
    """The job whose problems and runs are a log's. What can't be used is counted and printed.

    Args:
        show: Prints the counts.
        plan: The job, with the task that has the right answers.
        model: Its model.
        found: How the model marks its thinking.
        runs: The log's files. (): there is none, and the job stays as it is.
        options: The command's.

    Raises:
        ControllerError: The log can't be used, see `own_runs` and `check_own`.
    """
    if not runs:
        return plan
    log = read_log(runs)
    own = own_runs(model, plan.recipe, found, log)
    problems = _answered(plan, own, gold=options.mode != "disagree")
    for message in own.unusable.messages():
        show.say(message, "yellow")
    if not problems:
        raise ControllerError(f"none of the {len(own.runs)} questions of {log.name} is among the --tasks")
    logged = {problem.id: run for problem, run in own.runs}
    show.say(f"{len(problems)} of {len(problems) + own.unusable.total} lines of {log.name} are read, none is decoded")
    if not options.dry_run:
        show.say(check_own(plan.recipe, own.runs))
    return replace(
        plan,
        task=replace(plan.task, draw=lambda n, stream: problems[:n]),
        n=options.n or len(problems),
        logged=logged,
        log_sha256=log.sha256,
        source=f"the log {log.name}, {len(problems)} of {len(problems) + own.unusable.total} lines",
    )


def _answered(plan: CalibrationJob, own: OwnRuns, *, gold: bool) -> list[Problem]:
    """The log's problems with the task's answers and domains. Without an answer that is needed they are counted."""
    missing, known = {problem.id for problem, _ in own.runs}, dict[int, Problem]()
    most, want = SEARCHED * len(missing), 4 * len(missing)
    while missing and want <= most:
        drawn = plan.task.draw(want, calibration_stream(plan.recipe.seed))
        known |= {problem.id: problem for problem in drawn if problem.id in missing}
        missing -= known.keys()
        if len(drawn) < want:
            break
        want *= 4
    problems = []
    for problem, run in own.runs:
        found = known.get(problem.id)
        if found is not None:
            problems.append(replace(problem, answer=found.answer, domain=found.domain))
        elif gold:
            own.unusable.count(NO_ANSWER, run.where)
        else:
            problems.append(problem)
    return problems
