"""The file of answers that diagnostics make of many questions, and go on with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from ...diagnostics.answers_file import Answered, AnswersFile, Ask, answer, check_asks, collect_answers
from ...runs.collect import identity_of
from ..console import Console
from ..options import Options
from ..sampled import SamplingJob, probe_text


def short(name: str) -> str:
    """A model's name for a title: of a path, the last part.

    >>> short("/models/small.gguf"), short("tiny")
    ('small.gguf', 'tiny')
    """
    return Path(name).name or name


def answers_path(out: str) -> Path:
    """The file of the answers, next to the page made of them: P.html has P.html.answers.jsonl."""
    return Path(out + ".answers.jsonl")


def answered(
    show: Console, job: SamplingJob, asks: Sequence[Sequence[Ask]], options: Options, out: str, **settings: Any
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
    workers = options.machine(recipe.model)[0]
    check_asks(recipe, asks, rule, workers)
    header = settings | job.task.identity()
    header |= {
        "model": identity_of(recipe.load()),
        "n": len(job.problems),
        "seed": recipe.seed,
        "max_new_tokens": recipe.max_new_tokens,
        "markers": recipe.markers,
        "draft": recipe.draft,
        "batch": recipe.batch,
        "probe": probe_text(rule) or None,
    }
    work = partial(answer, recipe, rule=rule)
    return kept(show, work, asks, header, out, force=options.force, workers=workers)


def kept(
    show: Console,
    work: Callable[[Sequence[Ask]], list[Answered]],
    asks: Sequence[Sequence[Ask]],
    header: dict[str, Any],
    out: str,
    *,
    force: bool,
    workers: int,
) -> list[list[Answered]]:
    """The answers of the file next to a page, and those that it lacks.

    Args:
        show: Where progress is shown.
        work: Gives the answers to one problem.
        asks: What is asked of each problem.
        header: The file's: two jobs must share it to share the file.
        out: The page.
        force: Begin anew.
        workers: Number of processes.
    """
    with closing(AnswersFile(answers_path(out), header)) as file:
        done = file.open(force=force)
        if done:
            show.say(f"{min(done, len(asks))} problems are there already")
        with show.progress("asking") as progress:
            return collect_answers(work, asks, file, done=done, workers=workers, progress=progress)
