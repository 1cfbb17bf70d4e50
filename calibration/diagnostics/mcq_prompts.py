"""How a multiple-choice question is put, and how its answer is read: formats, orders, worked examples, IRAC.

After "A Llama walks into the 'Bar'" (arXiv 2504.04945), which varies the format of question and answer, whether the
answer or its explanation comes first, and the number of worked examples.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar

from .choice_question import ChoiceQuestion

Format = Literal["list", "markdown", "json"]
Order = Literal["answer", "explanation"]
T = TypeVar("T")

CUES: dict[Format, str] = {"list": "Answer:", "markdown": "**Answer:**", "json": '"answer":'}
"""What the letter follows, by format."""
OPENINGS: dict[Format, str] = {"list": "Answer:", "markdown": "**Answer:**", "json": '{"answer": "'}
"""What an answer begins with where the letter comes first."""
WHY = "why it is right"
IRAC = "the issue, the rule, its application and the conclusion (Issue: ... Rule: ... Application: ... Conclusion: ...)"
"""What an explanation holds: in a sentence, or as lawyers write it (issue, rule, application, conclusion)."""
_WORDED = re.compile(r"answer[\W_]{0,12}([A-J])(?![A-Za-z])", re.IGNORECASE)
_BARE = re.compile(r"[\s*_(]{0,8}([A-J])(?:[.):*_]|\s*(?:\n|$))")
_MEMBER = re.compile(r'"answer"\s{0,4}:\s{0,4}"\(?([A-J])(?![A-Za-z])')


class Worked(NamedTuple):
    """A worked example."""

    question: ChoiceQuestion
    """The question."""
    gold: str
    """The letter of its right option."""


@dataclass(frozen=True)
class Style:
    """How a question is put."""

    format: Format
    """Of the question and of the answer."""
    order: Order
    """What comes first."""
    irac: bool = False
    """The explanation has the structure of IRAC."""

    @property
    def cue(self) -> str:
        """The text that the letter follows."""
        return CUES[self.format]

    def question(self, question: ChoiceQuestion) -> str:
        """The question and its options."""
        if self.format == "json":
            options = dict(zip(question.letters, question.options, strict=True))
            return json.dumps({"question": _stem(question), "options": options}, ensure_ascii=False)
        if self.format == "markdown":
            lines = [f"- **{a}.** {b}" for a, b in zip(question.letters, question.options, strict=True)]
            return "\n".join(["### Question", _stem(question), "", "### Options", *lines])
        lines = [f"{a}. {b}" for a, b in zip(question.letters, question.options, strict=True)]
        return "\n".join([_stem(question), *lines])

    def instruction(self) -> str:
        """What is asked for."""
        why = IRAC if self.irac else WHY
        if self.format == "json":
            parts = ['"answer": "<letter>"', f'"explanation": "<{why}>"']
            return f"Reply with one JSON object: {{{', '.join(self._ordered(parts))}}}"
        first, second = self._ordered([f"{self.cue} <letter>", f"{self.cue.replace('Answer', 'Explanation')} <{why}>"])
        return f"Choose one option. Reply with two lines:\n{first}\n{second}"

    def answer(self, worked: Worked) -> str:
        """The answer of a worked example."""
        content = worked.question.options[worked.question.letters.index(worked.gold)]
        why = f"The right option is: {content}"
        if self.format == "json":
            parts = [("answer", worked.gold), ("explanation", why)]
            return json.dumps(dict(self._ordered(parts)), ensure_ascii=False)
        return "\n".join(
            self._ordered([f"{self.cue} {worked.gold}", f"{self.cue.replace('Answer', 'Explanation')} {why}"])
        )

    def prompt(self, question: ChoiceQuestion, shots: Sequence[Worked] = ()) -> str:
        """The text of a prompt: the instruction, worked examples, the question."""
        examples = [f"{self.question(one.question)}\n\n{self.answer(one)}" for one in shots]
        return "\n\n".join([self.instruction(), *examples, self.question(question)])

    def letter(self, text: str, options: int) -> str:
        """The letter that an answer states; "" where none can be read.

        Where the answer comes first its first statement counts; a letter that begins the answer as it began its option
        is one. Else the last statement counts.

        >>> Style("list", "answer").letter("Answer: (B) since", 4), Style("json", "answer").letter('{"answer": "B"', 4)
        ('B', 'B')
        >>> Style("list", "explanation").letter("The answer: A? No. **Answer:** C", 4)
        'C'
        >>> Style("list", "answer").letter("C. red", 4), Style("list", "answer").letter("A red one", 4)
        ('C', '')
        >>> Style("list", "answer").letter("It is B.", 4), Style("list", "answer").letter("Answer: F", 4)
        ('', '')
        """
        pattern = _MEMBER if self.format == "json" else _WORDED
        found = [one[1].upper() for one in pattern.finditer(text)]
        if self.order == "answer" and self.format != "json" and (bare := _BARE.match(text)):
            found.insert(0, bare[1])
        letter = "" if not found else found[0] if self.order == "answer" else found[-1]
        return letter if letter and ord(letter) - ord("A") < options else ""

    def _ordered(self, parts: list[T]) -> list[T]:
        return parts if self.order == "answer" else parts[::-1]


def _stem(question: ChoiceQuestion) -> str:
    return "\n".join([question.stem, *([question.after] if question.after else [])])
