"""`ctl stability --perturb audio`: irrelevant sound before the questions of an audio-language model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from reasonctl.probes.files import check_target

from ...diagnostics.answers_file import Answered, Ask
from ...diagnostics.sound import check_sound, sounds_digest
from ...diagnostics.sound_runs import SoundRecipe, answer_with_sound
from ...diagnostics.stability import Grid
from ...runs.splits import evaluation_stream
from ...tasks.problem import Problem
from ...tasks.sources import Task, load_task
from ..console import Console
from ..flags import PROMISE
from ..options import Options
from .diagnosed import kept

MOST_NEW_TOKENS = 512
"""Most tokens of an answer where nobody asks for a number."""
WITHOUT = ("draft", "batch", "backend", *PROMISE)
"""Options that mean nothing with sound."""


class SoundJob:
    """The problems of a job with sound, and what asks them."""

    def __init__(self, show: Console, name: str, options: Options, tasks: str, n: int, grid: Grid, out: str) -> None:
        """Open it; what can be refused is refused before the model loads."""
        options.refuse("ctl stability --perturb audio", *WITHOUT, because="the library's own prefill reads the sound")
        check_target(out, options.force)
        for spec in grid.sounds:
            check_sound(spec)
        self._sounds = sounds_digest(grid.sounds)
        self.task: Task = load_task(tasks, grader=options.grader)
        self.problems: list[Problem] = self.task.problems(n, stream=evaluation_stream(options.seed))
        threads, most = options.threads, options.max_new_tokens or MOST_NEW_TOKENS
        self.recipe = SoundRecipe(name, threads, options.seed, most)
        self.recipe.load()
        self._show, self._options, self._out = show, options, out

    def answered(self, asks: Sequence[Sequence[Ask]], **settings: Any) -> list[list[Answered]]:
        """The answers to all problems; those of an earlier job of the same settings are read and not made again."""
        recipe = self.recipe
        header = settings | self.task.identity() | {"model": recipe.load().identity(), "n": len(self.problems)}
        header |= {"seed": recipe.seed, "max_new_tokens": recipe.max_new_tokens, "sounds_digest": self._sounds}
        work, workers = partial(answer_with_sound, recipe), self._options.workers or 1
        return kept(self._show, work, asks, header, self._out, force=self._options.force, workers=workers)
