"""Multiple-choice questions: a stem and lettered options, in any order."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from reasonctl.controller.sampling import LETTERS

_OPTION = re.compile(r"^[ \t]*\(?([A-J])[.):][ \t]+(\S[^\n]*)", re.MULTILINE)


@dataclass(frozen=True)
class ChoiceQuestion:
    """A question with options."""

    stem: str
    """The text before the options."""
    options: tuple[str, ...]
    """The options in the order that is shown."""
    original: tuple[str, ...]
    """The letter that each had in the question as it was given."""
    after: str = ""
    """The text after the options."""

    @property
    def letters(self) -> tuple[str, ...]:
        """The letters that are shown, in order."""
        return tuple(LETTERS[: len(self.options)])

    def rotated(self, places: int) -> ChoiceQuestion:
        """The same question with every option moved on by so many places, the last ones to the front.

        >>> question = choice_question("Q?\\nA. x\\nB. y\\nC. z")
        >>> question.rotated(1).options, question.rotated(1).original, question.rotated(3) == question
        (('z', 'x', 'y'), ('C', 'A', 'B'), True)
        """
        at = -places % len(self.options)
        return replace(
            self, options=self.options[at:] + self.options[:at], original=self.original[at:] + self.original[:at]
        )

    def ordered(self) -> ChoiceQuestion:
        """The same question with its options in alphabetical order: the same for every order of the options.

        >>> choice_question("Q?\\nA. y\\nB. x").ordered().options
        ('x', 'y')
        """
        order = sorted(range(len(self.options)), key=self.options.__getitem__)
        return replace(
            self,
            options=tuple(self.options[i] for i in order),
            original=tuple(self.original[i] for i in order),
        )

    def text(self) -> str:
        """The question as a list of lettered options."""
        lines = [f"{letter}. {option}" for letter, option in zip(self.letters, self.options, strict=True)]
        return "\n".join([self.stem, *lines, *([self.after] if self.after else [])])


def choice_question(question: str) -> ChoiceQuestion | None:
    """The stem and the options of a question; None where it has not two options or more, lettered from A on.

    >>> choice_question("What is ice?\\nA. water\\nB) stone\\n").options
    ('water', 'stone')
    >>> choice_question("What is ice?") is None
    True
    """
    found = list(_OPTION.finditer(question))
    if len(found) < 2 or [one[1] for one in found] != list(LETTERS[: len(found)]):
        return None
    stem, after = question[: found[0].start()].rstrip(), question[found[-1].end() :].strip()
    return ChoiceQuestion(stem, tuple(one[2].rstrip() for one in found), tuple(one[1] for one in found), after)
