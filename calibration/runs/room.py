"""Finds the questions that leave room for a run in the model's context.

A job leaves the others out and names them, and says how many runs have less room than was asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from reasonctl.backends import Model
from reasonctl.controller import ControllerError

from ..tasks.problem import Problem
from .recipe import room_after, usual_room

LEFT_OUT = "questions_left_out"
"""The entry of a card's report and of a command's JSON; it is there only if a question was left out."""

SHORTENED = "runs_shortened"
"""The entry, at the same places, with the number of runs that the context ends before `--max-new-tokens`."""

MANY = 0.05
"""Where more questions than this share are left out, a message says that results hold for short questions only."""

NAMED = 5
"""Most left-out questions that a message names."""


@dataclass(frozen=True)
class Asked:
    """The questions of a job, sorted by whether they leave room for a run."""

    problems: list[Problem]
    """Those that do, in order."""
    left_out: list[Problem]
    """Those that don't."""
    context: int
    """Tokens of the model's context."""
    tokens: int
    """Room for a run after its prompt."""
    wanted: int = 0
    """Most tokens that were asked for."""
    rooms: tuple[int, ...] = ()
    """Room of the runs that the context ends before those."""

    def report(self) -> dict[str, int]:
        """What a card and a command's JSON say of it; nothing where every run has the room that was asked for."""
        counts = {LEFT_OUT: len(self.left_out), SHORTENED: len(self.rooms)}
        return {name: count for name, count in counts.items() if count}

    def messages(self, where: Callable[[Problem], str]) -> list[str]:
        """What a user reads before any work; where: as in `message`."""
        return [text for text in (self.message(where), self.shortened()) if text is not None]

    def shortened(self) -> str | None:
        """A message about runs that the context ends early; None if there are none."""
        if not self.rooms:
            return None
        return (
            f"{len(self.rooms)} of {len(self.problems)} runs end before --max-new-tokens {self.wanted}: the context of "
            f"{self.context} leaves them {min(self.rooms)} to {max(self.rooms)}; lower it to {min(self.rooms)}, or "
            "load the model with a larger context"
        )

    def message(self, where: Callable[[Problem], str]) -> str | None:
        """A message that names what is left out; None if nothing is.

        Args:
            where: Says where a problem comes from, such as a line of a file.
        """
        if not self.left_out:
            return None
        total, n = len(self.problems) + len(self.left_out), len(self.left_out)
        names = ", ".join(where(problem) for problem in self.left_out[:NAMED])
        more = f" and {n - NAMED} more" if n > NAMED else ""
        text = (
            f"{n} of {total} questions {'is' if n == 1 else 'are'} left out: there is no room for "
            f"{self.tokens} new tokens in the context of {self.context} ({names}{more})"
        )
        if n <= MANY * total:
            return text
        return f"{text}; more than {MANY:.0%} of the task: what is measured holds for the short questions only"


def with_room(model: Model, problems: Sequence[Problem], wanted: int, suffix: str = "") -> Asked:
    """Sort problems by whether prompt and run fit the model's context.

    Args:
        model: The model that is asked.
        problems: In order.
        wanted: Most tokens of a run after its prompt. At most three quarters of the context are required.
        suffix: The text that an exit feeds; a run ends where it would have no room.

    Raises:
        ControllerError: No problem fits.
    """
    tokens = min(wanted, usual_room(model))
    sizes = [len(model.prompt(problem.question)) for problem in problems]
    fits = [size + tokens <= model.context for size in sizes]
    kept = [problem for problem, fit in zip(problems, fits, strict=True) if fit]
    left_out = [problem for problem, fit in zip(problems, fits, strict=True) if not fit]
    if left_out and not kept:
        raise ControllerError(
            f"none of {len(sizes)} questions fits the context of {model.context} tokens: the shortest prompt has "
            f"{min(sizes)} and a run needs {tokens} more; lower --max-new-tokens, or give shorter questions"
        )
    most = room_after(model, 0, suffix)
    rooms = [most - size for size, fit in zip(sizes, fits, strict=True) if fit]
    return Asked(kept, left_out, model.context, tokens, wanted, tuple(room for room in rooms if 0 < room < wanted))
