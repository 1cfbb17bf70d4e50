"""The file of answers that diagnostics make of many questions, and go on with."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from ..diagnostics.answers_file import Answered, AnswersFile, Ask, collect_answers
from ..runs.collect import identity_of
from .console import Console
from .options import Options
from .sampled import SamplingJob, probe_text


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
    header = settings | {
        "model": identity_of(recipe.load()),
        "tasks": job.task.name,
        "n": len(job.problems),
        "seed": recipe.seed,
        "max_new_tokens": recipe.max_new_tokens,
        "markers": recipe.markers,
        "draft": recipe.draft,
        "batch": recipe.batch,
        "probe": probe_text(rule) or None,
    }
    with closing(AnswersFile(answers_path(out), header)) as file:
        done = file.open(force=options.force)
        if done:
            show.say(f"{min(done, len(asks))} problems are there already")
        workers = options.machine(recipe.model)[0]
        with show.progress("asking") as progress:
            return collect_answers(recipe, asks, rule, file, done=done, workers=workers, progress=progress)
