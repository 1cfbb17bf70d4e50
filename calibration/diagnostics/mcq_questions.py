"""Multiple-choice questions of any task: those that have options, and arithmetic ones for which options are made."""

from __future__ import annotations

import random
from collections import Counter
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

    A question with labelled options keeps them. One whose answer is a whole number gets three wrong numbers next to it,
    in an order that its text decides.

    Raises:
        ControllerError: A question has neither, its answer names no option, or the numbers of options differ.
    """
    found = [_question(problem) for problem in problems]
    sizes = Counter(len(one.question.options) for one in found)
    if len(sizes) > 1:
        usual = sizes.most_common(1)[0][0]
        other = next(i for i, one in enumerate(found) if len(one.question.options) != usual)
        raise ControllerError(
            f"{problems[other].question[:60]!r} has {len(found[other].question.options)} options, and most questions "
            f"have {usual}; give those of one number"
        )
    return found


def _question(problem: Problem) -> Worked:
    given, gold = choice_question(problem.question), (problem.answer or "").strip()
    if given is None or (given.original[0] == "1" and _is_made(given, gold)):
        return _made(problem, gold)
    label = gold.strip("().: ")
    labels = [one.casefold() for one in given.original]
    named = [labels.index(label.casefold())] if label.casefold() in labels else []
    flat = [" ".join(option.split()).casefold() for option in given.options]
    same = [i for i, option in enumerate(flat) if option == " ".join(gold.split()).casefold()]
    if label in given.original and label.isalpha():
        same = []
    if len({*named, *same}) != 1:
        what = f"names the option {label!r} and is another's text" if named and same else "names no option"
        raise ControllerError(
            f"the answer {gold[:40]!r} {what} of {problem.question[:60]!r}; letter the options and give a letter"
        )
    return Worked(given, given.letters[(named or same)[0]], problem.explanation)


def _is_made(given: ChoiceQuestion, gold: str) -> bool:
    """Whether a numbered list is no list of options: the answer is a number that it doesn't hold."""
    return gold.lstrip("+-").isdecimal() and gold not in given.original and gold not in given.options


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
    return Worked(question, letters[numbers.index(right)], problem.explanation, made=True)
