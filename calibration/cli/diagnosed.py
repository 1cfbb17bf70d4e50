"""What the diagnostics that ask a model many questions share: the model, the problems, and the file of answers."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reasonctl.backends import Model
from reasonctl.probes import ProbeExit
from reasonctl.probes.files import digest_of

from ..diagnostics.answers_file import Answered, AnswersFile, Ask, collect_answers
from ..runs.collect import identity_of
from ..runs.recipe import Recipe
from ..runs.room import with_room
from ..runs.splits import evaluation_stream
from ..tasks.problem import Problem
from ..tasks.sources import Task, load_task
from .calibrate import show_left_out
from .console import Console
from .flags import PROMISE
from .options import Options
from .recipes import open_any

AT_ONCE = 8
"""Runs of a problem that share forwards where nobody asks for a number."""


@dataclass(frozen=True)
class DiagnosticJob:
    """What is asked, of which model."""

    rule: ProbeExit | None
    """The exit rule; None: there is none."""
    model: Model
    """The model."""
    recipe: Recipe
    """How runs are made."""
    task: Task
    """Where the problems come from."""
    problems: list[Problem]
    """The problems."""


def open_diagnostic(
    show: Console, command: str, name: str, options: Options, *, tasks: str, probe: str | None, n: int
) -> DiagnosticJob:
    """Load the model and draw the problems.

    Args:
        show: Where warnings are printed.
        command: The command, for its errors.
        name: The model, as the command line names it.
        options: The command's.
        tasks: Where the problems come from.
        probe: The command's `--probe`; `none` for no rule.
        n: Number of problems.
    """
    task = load_task(tasks, grader=options.grader)
    if "batch" not in options.given:
        options = replace(options, batch=AT_ONCE)
    rule, model, recipe = open_any(show, command, name, options, probe, *PROMISE, because="no exit rule is asked")
    seen = frozenset(rule.content.table.problem.tolist()) if rule else frozenset()
    drawn = task.problems(n, stream=evaluation_stream(options.seed), exclude=seen, prompt=model.prompt)
    asked = with_room(model, drawn, recipe.max_new_tokens)
    show_left_out(show, asked, task)
    return DiagnosticJob(rule, model, recipe, task, asked.problems)


def answers_path(out: str) -> Path:
    """The file of the answers, next to the page made of them: P.html has P.html.answers.jsonl."""
    return Path(out + ".answers.jsonl")


def answered(
    show: Console, job: DiagnosticJob, asks: Sequence[Sequence[Ask]], options: Options, out: str, **settings: Any
) -> list[list[Answered]]:
    """The answers to all problems; those of an earlier job of the same settings are read and not made again.

    Args:
        show: Where progress is shown.
        job: The model and the problems.
        asks: What is asked of each problem.
        options: The command's.
        out: The page; the answers lie next to it.
        settings: What changes the answers besides: two jobs must share it to share the file.
    """
    recipe, rule = job.recipe, job.rule
    header = settings | {
        "model": identity_of(recipe.load()),
        "tasks": job.task.name,
        "n": len(job.problems),
        "seed": recipe.seed,
        "max_new_tokens": recipe.max_new_tokens,
        "markers": recipe.markers,
        "draft": recipe.draft,
        "batch": recipe.batch,
        "probe": None if rule is None else f"{digest_of(rule.content)} {rule.promise}",
    }
    with closing(AnswersFile(answers_path(out), header)) as file:
        done = file.open(force=options.force)
        if done:
            show.say(f"{min(done, len(asks))} problems are there already")
        workers = options.machine(recipe.model)[0]
        with show.progress("asking") as progress:
            return collect_answers(recipe, asks, rule, file, done=done, workers=workers, progress=progress)
