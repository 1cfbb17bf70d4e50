"""Changes of a question that don't change its answer: irrelevant sentences, white space, the order of its options."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from itertools import cycle

from reasonctl.controller import ControllerError

from .choice_question import ChoiceQuestion, choice_question

PLAIN = (
    "The library on the corner opens early.",
    "A ferry crosses the bay in the morning.",
    "The old clock in the hall is made of oak.",
    "Rain is expected in the hills tonight.",
    "The bakery sells bread with seeds.",
    "Their garden has a wall of grey stone.",
    "Most of the boats were painted blue.",
    "The museum keeps a collection of maps.",
    "A fox was seen near the railway bridge.",
    "The choir sings in the chapel at noon.",
)
"""Sentences without a number."""
NUMBERED = (
    "The train on platform 7 was 12 minutes late.",
    "A jar of 250 buttons stood on the shelf.",
    "The tower has 84 steps and 3 bells.",
    "The recipe asks for 6 eggs and 40 grams of sugar.",
    "Room 19 was painted in 2003.",
    "The bus of line 31 stops every 15 minutes.",
    "The lake lies 620 metres above the sea.",
    "A ticket for 2 adults costs 18 euros.",
    "The book has 352 pages in 11 chapters.",
    "They planted 45 trees in 9 rows.",
)
"""Sentences with numbers, which a model may take for part of the question."""


def text(question: str, key: str, length: int, strength: float) -> str:
    """Irrelevant sentences in front of the question.

    Args:
        question: The question.
        key: Decides which sentences come; the same key gives the same ones, and a longer text begins with the shorter.
        length: Number of sentences.
        strength: Share of them that hold numbers, from 0 to 1.
    """
    rng = random.Random(f"irrelevant text {key}")
    plain, numbered = (cycle(rng.sample(pool, len(pool))) for pool in (PLAIN, NUMBERED))
    with_numbers = [int((i + 1) * strength) > int(i * strength) for i in range(length)]
    return " ".join(next(numbered if one else plain) for one in with_numbers) + "\n\n" + question


def whitespace(question: str, key: str, length: int, strength: float) -> str:
    """More spaces between words.

    Args:
        question: The question.
        key: Decides which gaps grow.
        length: Spaces that are added to a gap.
        strength: Share of the gaps that grow, from 0 to 1; at least one does.
    """
    gaps = [found.end() for found in re.finditer(r"(?<=\S) (?=\S)", question)]
    if not gaps:
        return question + " " * length
    chosen = random.Random(f"white space {key}").sample(gaps, max(1, round(strength * len(gaps))))
    for end in sorted(chosen, reverse=True):
        question = question[:end] + " " * length + question[end:]
    return question


def moved(question: str, length: int) -> ChoiceQuestion:
    """A multiple-choice question whose options have moved on by so many places.

    A move by a multiple of the number of options would change nothing, and is one by 1.

    Raises:
        ControllerError: The question has no options.
    """
    found = choice_question(question)
    if found is None or found.original != found.letters:
        raise ControllerError(
            f"--perturb options moves options, and {question[:60]!r} has none with capital letters; write each in a "
            "line, 'A. text'"
        )
    return found.rotated(length % len(found.options) or 1)


def options(question: str, key: str, length: int, strength: float) -> str:
    """The options of a multiple-choice question in another order.

    Args:
        question: The question, with a line for each option.
        key: Not used: the order is the same for every question.
        length: Places by which each option moves on, see `moved`.
        strength: Not used.

    Raises:
        ControllerError: The question has no options.
    """
    return moved(question, length).text()


PERTURB: dict[str, Callable[[str, str, int, float], str]] = {
    "text": text,
    "whitespace": whitespace,
    "options": options,
}
"""Perturbations of the question by their names."""
