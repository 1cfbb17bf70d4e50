"""Answers of audio-language models, with irrelevant sound or without; kept in the file of all diagnostics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from reasonctl.controller import Keys, parse_policy

from .answers_file import FIRST_RUN, MOST_VOTES, Answered, Ask
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
