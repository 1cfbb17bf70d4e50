"""How a multiple-choice question is put, and how its answer is read: formats, orders, worked examples, IRAC.

After "A Llama walks into the 'Bar'" (arXiv 2504.04945), which varies the format of question and answer, whether the
answer or its explanation comes first, and the number of worked examples.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar

from .choice_question import ChoiceQuestion, indented
from .mcq_reading import bare, members, statements

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


class Worked(NamedTuple):
    """A question with its right option; a worked example where it stands before another."""

    question: ChoiceQuestion
    """The question."""
    gold: str
    """The letter of its right option."""
    explanation: str = ""
    """Why it is right, as the task says; "": the task doesn't."""
    made: bool = False
    """Its wrong options were made up from its number."""


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
            lines = question.lines(lambda a: f"- **{a}.**")
            return "\n".join(["### Question", _stem(question), "", "### Options", *lines])
        return "\n".join([_stem(question), *question.lines(lambda a: f"{a}.")])

    def shown(self, option: str) -> str:
        """An option's content as it stands in a prompt."""
        return json.dumps(option, ensure_ascii=False)[1:-1] if self.format == "json" else indented(option)

    def instruction(self) -> str:
        """What is asked for."""
        why = IRAC if self.irac else WHY
        if self.format == "json":
            parts = ['"answer": "<letter>"', f'"explanation": "<{why}>"']
            return f"Reply with one JSON object: {{{', '.join(self._ordered(parts))}}}"
        first, second = self._ordered([f"{self.cue} <letter>", f"{self.cue.replace('Answer', 'Explanation')} <{why}>"])
        return f"Choose one option. Reply with two lines:\n{first}\n{second}"

    def answer(self, worked: Worked) -> str:
        """The answer of a worked example; without an explanation where the task has none."""
        why = worked.explanation
        if self.format == "json":
            parts = [("answer", worked.gold), *([("explanation", why)] if why else [])]
            return json.dumps(dict(self._ordered(parts)), ensure_ascii=False)
        explained = [f"{self.cue.replace('Answer', 'Explanation')} {why}"] if why else []
        return "\n".join(self._ordered([f"{self.cue} {worked.gold}", *explained]))

    def prompt(self, question: ChoiceQuestion, shots: Sequence[Worked] = ()) -> str:
        """The text of a prompt: the instruction, worked examples, the question."""
        examples = [f"{self.question(one.question)}\n\n{self.answer(one)}" for one in shots]
        return "\n\n".join([self.instruction(), *examples, self.question(question)])

    def letter(self, text: str, options: Sequence[str]) -> str:
        """The letter that an answer states; "" where none can be read, or several are named.

        What is labelled counts before what a sentence says. Where the answer comes first its first statement counts,
        and a letter that begins the answer as it began its option is one; else the last.

        Args:
            text: The answer.
            options: The options' contents as they were asked.

        >>> options = ["sand", "water", "fire"]
        >>> Style("list", "answer").letter("Answer: (B) since", options)
        'B'
        >>> Style("list", "explanation").letter("Sand is dry. So the correct answer is B.", options)
        'B'
        >>> Style("json", "answer").letter('{"answer": "Option B"', options)
        'B'
        >>> Style("list", "answer").letter("C. fire", options), Style("list", "answer").letter("A fire", options)
        ('C', '')
        """
        letter = bare(text) if self.order == "answer" and self.format != "json" else ""
        if not letter:
            found = list((members if self.format == "json" else statements)(text, options))
            best = min((one.rank for one in found), default=0)
            stated = sorted((one.place, one.letter) for one in found if one.rank == best)
            letter = "" if not stated else stated[0 if self.order == "answer" else -1][1]
        return letter if letter and ord(letter) - ord("A") < len(options) else ""

    def _ordered(self, parts: list[T]) -> list[T]:
        return parts if self.order == "answer" else parts[::-1]


def _stem(question: ChoiceQuestion) -> str:
    return "\n".join([question.stem, *([question.after] if question.after else [])])
