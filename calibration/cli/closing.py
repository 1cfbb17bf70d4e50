"""Chooses, for `ctl calibrate`, the text that closes thinking and asks for the answer, where the user gives none.

The choice is made on the first fitting runs, and stands in the header of the runs file; these runs are kept.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from reasonctl.backends import BUNDLED, Model
from reasonctl.controller import Closing, ControllerError
from reasonctl.controller.thinking import Format, read_template, with_markers

from ..fitting.begun import closed
from ..fitting.choose_suffix import TRIED_RUNS, ChosenClosing, candidates, choose_suffix
from ..fitting.collecting import fitting_trials
from ..fitting.job import CalibrationJob
from ..runs.collect import identity_of
from ..runs.records import RunRecord
from ..runs.worker import start_engine
from ..tasks.problem import Problem
from .console import Console


class ClosedJob(NamedTuple):
    """A job whose closing is known."""

    plan: CalibrationJob
    """The job."""
    first: tuple[RunRecord, ...] = ()
    """Its first runs, if the closing was chosen on them just now."""
    seconds: float = 0.0
    """Wall-clock of all of them, divided by their number."""


def format_of(model: Model, overrides: Mapping[str, Any]) -> Format:
    """How the model marks its thinking: as its template says, but for the `think_open` and `think_close` given."""
    opening, closing = overrides["think_open"], overrides["think_close"]
    return with_markers(read_template(model.template), model.template, opening, closing)


def closings_of(
    plan: CalibrationJob, model: Model, overrides: Mapping[str, Any], problems: list[Problem]
) -> tuple[Closing, ...]:
    """The closings among which a job chooses; one where there is nothing to choose.

    Args:
        plan: The job.
        model: Its model. A bundled model keeps the closing that it was trained on.
        overrides: What the user gives: the markers as `think_open` and `think_close`, `suffix` and `answer`.
        problems: The job's problems, the fitting ones first.
    """
    if model.name in BUNDLED or overrides["suffix"] or overrides["answer"]:
        return (Closing(plan.recipe.suffix, plan.recipe.answer_ends),)
    answers = [problem.answer for problem in problems[: plan.fit] if problem.answer is not None]
    return candidates(format_of(model, overrides), answers)


def with_closing(
    show: Console,
    plan: CalibrationJob,
    model: Model,
    overrides: Mapping[str, Any],
    problems: list[Problem],
    workers: int | str,
    *,
    force: bool,
    deadline: float | None,
) -> ClosedJob | None:
    """The job with the closing that its first fitting runs choose. A job that has these keeps the one that it has.

    Args:
        show: Prints what the candidates gave.
        plan: The job.
        model: Its model.
        overrides: As in `closings_of`, like `problems`.
        problems: The job's problems, the fitting ones first.
        workers: As in `run_jobs`.
        force: Another job's file of runs is no error, since the job starts it over.
        deadline: As in `choose_suffix`.

    Returns:
        None if the deadline came first.

    Raises:
        ControllerError: The file of runs is another job's.
    """
    tried = min(TRIED_RUNS, plan.fit)
    closings = closings_of(plan, model, overrides, problems)
    if _goes_on(plan, model, tried, force) or len(closings) == 1:
        return ClosedJob(plan)
    return _chosen(show, plan, model, closings, problems[:tried], workers, deadline)


def _chosen(
    show: Console,
    plan: CalibrationJob,
    model: Model,
    closings: tuple[Closing, ...],
    tried: list[Problem],
    workers: int | str,
    deadline: float | None,
) -> ClosedJob | None:
    """The job with one of several closings, chosen on runs of its first problems; None if the deadline came first."""
    show.say(f"trying {len(closings)} ways to ask for the answer on {len(tried)} of the fitting runs")
    start_engine(plan.recipe)
    start = time.monotonic()
    chosen = choose_suffix(
        plan.recipe,
        closings,
        list(enumerate(tried)),
        plan.task.grader,
        which=fitting_trials(plan),
        identity=identity_of(model),
        logged=plan.logged,
        workers=workers,
        deadline=deadline,
    )
    if chosen is None:
        return None
    each = (time.monotonic() - start) / len(tried)
    return ClosedJob(closed(plan, chosen.closing, _shown(show, chosen)), chosen.runs, each)


def _shown(show: Console, chosen: ChosenClosing) -> tuple[str, ...]:
    """Print what the candidates gave, and return it, a line each."""
    lines = tuple(one.line for one in chosen.counts)
    for line in lines:
        show.say(f"  {line}")
    if chosen.untried:
        show.say(f"no cue was met there, so the first way is taken: {chosen.closing.suffix!r}", "yellow")
    return lines


def _goes_on(plan: CalibrationJob, model: Model, tried: int, force: bool) -> bool:
    """Whether an earlier call of the job began its file of runs, and got beyond the runs on which it chose."""
    file = plan.run_file(model)
    try:
        if file.begun() is None:
            return False
        file.check()
        return not plan.closings or len(file.read()) >= tried
    except ControllerError:
        if force:
            return False
        raise
