"""Chooses, for `ctl calibrate`, the text that closes thinking and asks for the answer, where the user gives none.

The choice is made on the first fitting runs, before anything is collected, and stands in the header of the runs file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from reasonctl.backends import TINY, Model
from reasonctl.controller import Closing, ControllerError
from reasonctl.controller.core import Fields
from reasonctl.controller.thinking import Format, read_template, with_markers

from ..fitting.choose_suffix import candidates, choose_suffix
from ..fitting.job import CalibrationJob
from ..runs.run_file import RunFile, stored_closing
from ..runs.splits import runs_path
from ..tasks.problem import Problem
from .console import Console

TRIED_RUNS = 4
"""Fitting runs on which the candidates are tried."""


def format_of(model: Model, overrides: Mapping[str, Any]) -> Format:
    """How the model marks its thinking: as its template says, but for the `think_open` and `think_close` given."""
    opening, closing = overrides["think_open"], overrides["think_close"]
    return with_markers(read_template(model.template), model.template, opening, closing)


def with_closing(
    show: Console,
    plan: CalibrationJob,
    model: Model,
    overrides: Mapping[str, Any],
    problems: list[Problem],
    *,
    workers: int | str,
    force: bool,
) -> CalibrationJob:
    """The job with the closing that its fitting runs choose, or with the one that an earlier call of it chose.

    Args:
        show: Prints what the candidates gave.
        plan: The job.
        model: Its model. The bundled model keeps the closing that it was trained on.
        overrides: What the user gives: `think_open`, `think_close`, `suffix` and `answer`. With one of the last two
            nothing is chosen.
        problems: The job's problems, the fitting ones first.
        workers: As in `run_jobs`.
        force: A file that holds no runs is no error, since the job starts it over.
    """
    if overrides["suffix"] or overrides["answer"]:
        return plan
    header = _begun(plan, force)
    if header is not None:
        return _closed(plan, stored_closing(header), tuple(header.texts("closings") if "closings" in header else ()))
    fitting = problems[: plan.fit]
    closings = candidates(
        format_of(model, overrides), [problem.answer for problem in fitting if problem.answer is not None]
    )
    if model.name == TINY or len(closings) == 1:
        return plan
    runs = list(enumerate(fitting))[:TRIED_RUNS]
    show.say(f"trying {len(closings)} ways to ask for the answer on {len(runs)} of the fitting runs")
    chosen = choose_suffix(plan.recipe, closings, runs, plan.task.grader, logged=plan.logged, workers=workers)
    lines = tuple(one.line for one in chosen.counts)
    for line in lines:
        show.say(f"  {line}")
    return _closed(plan, chosen.closing, lines)


def _begun(plan: CalibrationJob, force: bool) -> Fields | None:
    try:
        return RunFile(runs_path(plan.out), {}).begun()
    except ControllerError:
        if force:
            return None
        raise


def _closed(plan: CalibrationJob, closing: Closing, lines: tuple[str, ...]) -> CalibrationJob:
    recipe = replace(plan.recipe, suffix=closing.suffix, answer_ends=closing.answer_ends)
    return replace(plan, recipe=recipe, closings=lines)
