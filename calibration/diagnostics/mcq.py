"""Multiple choice under every way of asking: worked examples, order, format, temperature, and ways of debiasing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, Literal

from reasonctl.controller import ControllerError

from .answers_file import MOST_VOTES, Answered, Ask
from .choice_question import ChoiceQuestion
from .mcq_prompts import OPENINGS, Format, Order, Style, Worked
from .option_bias import SelectionBias, selection_bias
from .paired import Share, share

Debias = Literal["none", "prior", "cyclic"]
ANSWER_TOKENS = 16
"""Most tokens of a run whose answer comes first: the explanation after it isn't graded."""
ASKING = 2
"""Version of how openings and worked examples are written: answers of another one aren't gone on with."""
MOST_SHOTS = 16
"""Most worked examples."""

Prior = Mapping[tuple[int, Format], Sequence[float]]
"""The model's prior for the letters, by number of worked examples and format."""


@dataclass(frozen=True)
class Cell:
    """One way of asking."""

    shots: int
    """Worked examples."""
    order: Order
    """What comes first."""
    format: Format
    """Of question and answer."""
    temperature: float
    """Of sampling; 0 is greedy."""
    debias: Debias
    """What is done about the preference for letters."""

    def policy(self, cue: str, prior: Prior, opening: str = "", options: int = 0) -> str:
        """The sampling chain.

        Args:
            cue: The text that the letter follows.
            prior: The model's prior for the letters, where a cell divides by it.
            opening: What an answer that comes first begins with, then one of its letters; "": what the model likes.
            options: How many letters, where there is an opening.
        """
        chain = "greedy" if self.temperature == 0 else f"temperature({self.temperature:g})"
        if not opening or self.order != "answer":
            return chain
        after = f'after="{_quoted(cue)}"'
        if self.debias == "prior":
            values = ",".join(f"{value:.8g}" for value in prior[self.shots, self.format])
            chain = f"option_prior(prior=[{values}],{after}) | {chain}"
        elif self.debias == "cyclic":
            chain = f"cyclic_options({after}) | {chain}"
        return f'option_letter(options={options},opening="{_quoted(opening)}") | {chain}'


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


@dataclass(frozen=True)
class McqGrid:
    """All ways of asking that are compared."""

    shots: tuple[int, ...]
    """Numbers of worked examples."""
    orders: tuple[Order, ...]
    """What comes first."""
    formats: tuple[Format, ...]
    """Of question and answer."""
    temperatures: tuple[float, ...]
    """Of sampling."""
    debias: tuple[Debias, ...]
    """Ways of debiasing. `prior` is for answers that come first."""
    irac: bool = False
    """Explanations have the structure of IRAC."""
    whole: bool = False
    """Runs whose answer comes first are written to their end."""
    thinks: bool = False
    """The model thinks before it answers: no letter comes first, whatever is asked for."""

    def __post_init__(self) -> None:
        """Refuse what has no runs.

        Raises:
            ControllerError: A value is missing, is there twice or is out of range.
        """
        for name in ("shots", "orders", "formats", "temperatures", "debias"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ControllerError(f"--{name} is {values}; give one value or more, each once")
        if not all(0 <= one <= MOST_SHOTS for one in self.shots):
            raise ControllerError(f"--shots is {self.shots}; each is from 0 to {MOST_SHOTS}")
        if not all(0 <= one <= 100 for one in self.temperatures):
            raise ControllerError(f"--temperatures is {self.temperatures}; each is from 0 to 100")
        if self.debias == ("prior",) and self.orders == ("explanation",):
            raise ControllerError("--debias prior corrects a letter that comes first; add --orders answer, or cyclic")
        if self.thinks and "prior" in self.debias:
            raise ControllerError(
                "--debias prior corrects a letter that comes first, and this model thinks before it answers; "
                "leave prior out: --debias none,cyclic lets whole runs over the rotated questions vote"
            )

    def cells(self) -> list[Cell]:
        """All of them; a prior is for answers that come first."""
        every = product(self.shots, self.orders, self.formats, self.temperatures, self.debias)
        cells = [Cell(*one) for one in every]
        return [one for one in cells if one.debias != "prior" or one.order == "answer"]

    @property
    def opened(self) -> bool:
        """Whether answers that come first begin with their format's opening: letters are corrected only after it."""
        return "answer" in self.orders and any(one != "none" for one in self.debias) and not self.thinks

    def for_thinking(self) -> McqGrid:
        """The same for a model that thinks first: runs are whole, and `cyclic` is a vote in every order.

        Raises:
            ControllerError: A prior is asked for.
        """
        return replace(self, whole=True, thinks=True)

    def header(self) -> dict[str, Any]:
        """What changes the answers, for the header of their file; how they are read isn't part of it."""
        found = {name: value for name, value in vars(self).items() if name != "thinks"}
        return found | ({"asking": ASKING} if self.opened or max(self.shots) or self._votes_thinking else {})

    @property
    def _votes_thinking(self) -> bool:
        return self.thinks and "cyclic" in self.debias

    def style(self, cell: Cell) -> Style:
        """How a cell puts its questions."""
        return Style(cell.format, cell.order, self.irac)

    def variants(self, cell: Cell, question: ChoiceQuestion) -> list[ChoiceQuestion]:
        """The orders of options that a cell asks: one; to let explanations vote, all rotations of one fixed order."""
        if cell.debias != "cyclic" or (cell.order == "answer" and not self.thinks):
            return [question]
        ordered = question.ordered()
        return [ordered.rotated(places) for places in range(len(question.options))]

    def asks(self, asked: Worked, shots: Sequence[Worked], prior: Prior, index: int) -> list[Ask]:
        """The runs of one question, cell by cell. Cells whose prompts have equal length share uniforms.

        Args:
            asked: The question.
            shots: Worked examples, at least as many as a cell asks for.
            prior: The model's prior for the letters, where a cell divides by it.
            index: The question's number.
        """
        found = []
        for cell in self.cells():
            style = self.style(cell)
            opening = OPENINGS[cell.format] if self.opened else ""
            policy = cell.policy(style.cue, prior, opening, len(asked.question.options))
            most = ANSWER_TOKENS if cell.order == "answer" and not self.whole else 0
            for i, variant in enumerate(self.variants(cell, asked.question)):
                text = style.prompt(variant, shots[: cell.shots])
                found.append(Ask(text, policy, 2 * index * MOST_VOTES + i, most=most))
        return found


@dataclass(frozen=True)
class CellResult:
    """What came of a cell."""

    cell: Cell
    """The cell."""
    n: int
    """Questions."""
    accuracy: Share
    """Share that is right; an answer that can't be read is wrong."""
    unparsed: Share
    """Share of questions whose answer can't be read."""
    bias: SelectionBias
    """How the chosen letters differ from the right ones."""
    tokens: float
    """Mean tokens of a question: of all its runs."""
    letters: tuple[str, ...] = field(repr=False)
    """The letter chosen for each question; "" where none can be read."""
    gold: tuple[str, ...] = field(repr=False)
    """The right letters."""

    @property
    def right(self) -> list[bool]:
        """Whether each question is answered rightly."""
        return [a == b for a, b in zip(self.letters, self.gold, strict=True)]

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        found = {"n": self.n, "tokens": self.tokens, "accuracy": self.accuracy._asdict()}
        return vars(self.cell) | found | {"unparsed": self.unparsed._asdict(), "bias": self.bias.to_json()}


def results(grid: McqGrid, questions: Sequence[Worked], answers: Sequence[Sequence[Answered]]) -> list[CellResult]:
    """Every cell's accuracy, unparsed answers and bias.

    Args:
        grid: What was asked.
        questions: The questions.
        answers: The answers to each, in the order of `grid.asks`.
    """
    found, at = list[CellResult](), 0
    for cell in grid.cells():
        size = len(grid.variants(cell, questions[0].question))
        runs = [each[at : at + size] for each in answers]
        at += size
        chosen = [_chosen(grid, cell, one.question, made) for one, made in zip(questions, runs, strict=True)]
        gold = [one.gold for one in questions]
        n = len(questions)
        right = sum(a == b for a, b in zip(chosen, gold, strict=True))
        tokens = sum(run.tokens for each in runs for run in each) / n
        bias = selection_bias(chosen, gold, questions[0].question.letters)
        unparsed = share(sum(not one for one in chosen), n)
        found.append(CellResult(cell, n, share(right, n), unparsed, bias, tokens, tuple(chosen), tuple(gold)))
    return found


def _chosen(grid: McqGrid, cell: Cell, question: ChoiceQuestion, runs: Sequence[Answered]) -> str:
    """The letter, in the question's own order, that a cell's runs choose; the option of most runs, the first of equals.

    Runs that state nothing don't vote.
    """
    style, votes = grid.style(cell), Counter[str]()
    for variant, run in zip(grid.variants(cell, question), runs, strict=True):
        letter = style.letter(run.text, variant.options)
        if letter:
            votes[variant.options[variant.letters.index(letter)]] += 1
    if not votes:
        return ""
    if len(runs) == 1:
        return style.letter(runs[0].text, question.options)
    best = max(votes.values())
    first = next(one for one in question.ordered().options if votes[one] == best)
    return question.letters[question.options.index(first)]
