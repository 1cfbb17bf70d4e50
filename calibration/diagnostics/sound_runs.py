"""Answers of audio-language models, with irrelevant sound or without; kept in the file of all diagnostics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from reasonctl.controller import Keys, parse_policy

from ..parallel.run_jobs import ProgressCallback
from ..runs.job_file import append_made
from .answers_file import FIRST_RUN, MOST_VOTES, Answered, AnswersFile, Ask
from .sound import sound_of

if TYPE_CHECKING:
    from reasonctl.backends.hf.sound import SoundModel


@dataclass(frozen=True)
class SoundRecipe:
    """How runs with sound are made."""

    model: str
    """The model's folder."""
    threads: int | None
    """Threads of a process. None: the library's choice."""
    seed: int
    """Of the runs, and of the noise."""
    max_new_tokens: int
    """Most tokens of a run after its prompt."""

    def load(self) -> SoundModel:
        """The model, loaded once per process."""
        return _load(self.model, self.threads)


@cache
def _load(name: str, threads: int | None) -> SoundModel:
    from reasonctl.backends.hf.sound import load_sound_model  # reads torch

    return load_sound_model(name, threads=threads)


def answer_with_sound(recipe: SoundRecipe, asks: Sequence[Ask]) -> list[Answered]:
    """The answers to one problem, one run after the other.

    All runs of a problem get the same noise, and runs of one number the same uniforms.
    """
    model, found = recipe.load(), list[Answered]()
    for one in asks:
        key = recipe.seed + one.run // (2 * MOST_VOTES)
        sound = sound_of(one.sound, one.seconds, model.rate, key) if one.sound else None
        seed = int(Keys(seed=recipe.seed, run=FIRST_RUN + one.run).uniform(0, 0) * (1 << 53))
        made = model.answer(
            one.question, sound, parse_policy(one.policy), seed=seed, most=one.most or recipe.max_new_tokens
        )
        found.append(Answered(made.text, made.tokens, made.finish))
    return found


def collect_with_sound(
    recipe: SoundRecipe,
    problems: Sequence[Sequence[Ask]],
    file: AnswersFile,
    *,
    done: int,
    workers: int,
    progress: ProgressCallback,
) -> list[list[Answered]]:
    """Append the problems that the file doesn't hold yet, in order; then read all of the job's.

    Args:
        recipe: How the runs are made.
        problems: What is asked of each problem; equally many runs of each.
        file: The open file; it holds `done` problems.
        done: Problems that are there.
        workers: Number of processes.
        progress: Called after each problem.
    """
    jobs = [(recipe, asks) for asks in problems]
    append_made(
        answer_with_sound, jobs, lambda _, made: file.append(made), done=done, workers=workers, progress=progress
    )
    return file.read(len(problems[0]))[: len(problems)]
