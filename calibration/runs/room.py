"""Finds the questions that leave room for a run in the model's context. A job leaves the others out and names them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from reasonctl.backends import Model
from reasonctl.controller import ControllerError

from ..tasks.problem import Problem
from .recipe import usual_room

LEFT_OUT = "questions_left_out"
"""The entry of a card's report and of a command's JSON; it is there only if a question was left out."""

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


def with_room(model: Model, problems: Sequence[Problem], tokens: int) -> Asked:
    """Sort problems by whether prompt and run fit the model's context.

    Args:
        model: The model that is asked.
        problems: In order.
        tokens: Most tokens of a run after its prompt. At most three quarters of the context are required.

    Raises:
        ControllerError: No problem fits.
    """
    tokens = min(tokens, usual_room(model))
    sizes = [len(model.prompt(problem.question)) for problem in problems]
    kept: list[Problem] = []
    left_out: list[Problem] = []
    for problem, size in zip(problems, sizes, strict=True):
        (kept if size + tokens <= model.context else left_out).append(problem)
    if left_out and not kept:
        raise ControllerError(
            f"none of {len(sizes)} questions fits the context of {model.context} tokens: the shortest prompt has "
            f"{min(sizes)} and a run needs {tokens} more; lower --max-new-tokens, or give shorter questions"
        )
    return Asked(kept, left_out, model.context, tokens)
