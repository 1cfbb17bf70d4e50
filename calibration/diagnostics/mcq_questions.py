"""Multiple-choice questions of any task: those that have options, and arithmetic ones for which options are made."""

from __future__ import annotations

import random
from collections.abc import Sequence

from reasonctl.controller import ControllerError
from reasonctl.controller.sampling import LETTERS

from ..tasks.problem import Problem
from .choice_question import ChoiceQuestion, choice_question
from .mcq_prompts import Worked

MADE = 4
"""Options of a question that has none of its own."""
_NEAR = (-10, -3, -2, -1, 1, 2, 3, 10)
"""What a wrong option differs by from the right number."""


def questions_of(problems: Sequence[Problem]) -> list[Worked]:
    """Each problem as a question with options, and the letter of its right option.

    A question with lettered options keeps them. One whose answer is a whole number gets three wrong numbers next to it,
    in an order that its text decides.

    Raises:
        ControllerError: A question has neither, its answer names no option, or the numbers of options differ.
    """
    found = [_question(problem) for problem in problems]
    sizes = sorted({len(one.question.options) for one in found})
    if len(sizes) > 1:
        raise ControllerError(f"the questions have {sizes[0]} to {sizes[-1]} options; give those of one number")
    return found


def _question(problem: Problem) -> Worked:
    given, gold = choice_question(problem.question), (problem.answer or "").strip()
    if given is None:
        return _made(problem, gold)
    letter = gold.strip("().: ").upper()
    if letter in given.letters:
        return Worked(given, letter)
    same = [i for i, option in enumerate(given.options) if option.casefold() == gold.casefold()]
    if len(same) != 1:
        raise ControllerError(f"the answer {gold[:40]!r} names no option of {problem.question[:60]!r}; give its letter")
    return Worked(given, given.letters[same[0]])


def _made(problem: Problem, gold: str) -> Worked:
    try:
        right = int(gold)
    except ValueError:
        raise ControllerError(
            f"{problem.question[:60]!r} has no options, and its answer is no whole number; write each option in a "
            "line, 'A. text'"
        ) from None
    rng = random.Random(f"options {problem.id}")
    numbers = [right, *(right + by for by in rng.sample(_NEAR, MADE - 1))]
    rng.shuffle(numbers)
    letters = tuple(LETTERS[:MADE])
    question = ChoiceQuestion(problem.question.rstrip(), tuple(map(str, numbers)), letters)
    return Worked(question, letters[numbers.index(right)])
