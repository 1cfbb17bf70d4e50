"""Does an answer survive what shouldn't change it? Paired runs of clean and perturbed questions, and the noise floor.

After "When Silence Matters" (arXiv 2510.00626). At a temperature above 0 two seeds of the clean question disagree too:
that is the noise floor. A perturbed run has the keys of its clean run, and a key belongs to a place in the whole
sequence. So runs of prompts of one length share their uniforms, as an exit's do, and those of longer prompts don't.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from reasonctl.controller import ControllerError
from reasonctl.controller.selection import answer_classes, vote

from ..tasks.graders import Grader
from ..tasks.problem import Problem
from .answers_file import MOST_VOTES, Answered, Ask
from .choice_question import choice_question
from .paired import Comparison, Graded, compare, exceeds, holm
from .perturb import PERTURB, moved
from .sound import MOST_SECONDS
from .stated_option import stated_option

Perturbation = Literal["text", "whitespace", "options", "seed", "temperature", "exit", "audio"]
CLEAN, FLOOR = "clean", "seed"


@dataclass(frozen=True)
class Condition:
    """How a question is asked."""

    perturb: str
    """`clean`, `seed` (other uniforms), or a perturbation."""
    temperature: float
    """Of sampling; 0 is greedy."""
    length: int = 0
    """How much is added; what it counts depends on the perturbation."""
    strength: float = 0.0
    """How intrusive it is, from 0 to 1."""
    sound: str = ""
    """The sound before the question, as `sound_of` takes it; "": none. Its length is in seconds."""

    @property
    def policy(self) -> str:
        """The sampling chain."""
        return "greedy" if self.temperature == 0 else f"temperature({self.temperature:g})"

    def changed(self, question: str, key: str) -> str:
        """The question as this condition asks it."""
        change = PERTURB.get(self.perturb)
        return question if change is None else change(question, key, self.length, self.strength)

    @property
    def is_coupled(self) -> bool:
        """Its runs share their uniforms with the clean ones, so that another seed's are no measure for them."""
        return self.perturb in ("exit", CLEAN)


@dataclass(frozen=True)
class Grid:
    """What is compared."""

    perturb: Perturbation
    """What is changed."""
    lengths: tuple[int, ...]
    """How much."""
    strengths: tuple[float, ...]
    """How intrusively."""
    temperatures: tuple[float, ...]
    """At which temperatures; with `temperature` the first is the clean one."""
    votes: int = 1
    """Runs of each problem under each condition; above 1 a vote of them is compared too."""
    sounds: tuple[str, ...] = ()
    """With `audio`: the sounds, as `sound_of` takes them."""

    def __post_init__(self) -> None:
        """Refuse what has no runs.

        Raises:
            ControllerError: A value is out of range, is there twice, or means nothing for the perturbation.
        """
        for name, values in (
            ("lengths", self.lengths),
            ("strengths", self.strengths),
            ("temperatures", self.temperatures),
        ):
            if not values or len(set(values)) < len(values):
                raise ControllerError(f"--{name} is {values}; give one value or more, each once")
        if min(self.lengths) < 1 or max(self.lengths) > 10_000:
            raise ControllerError(f"--lengths is {self.lengths}; each is from 1 to 10000")
        if not all(0 <= one <= 1 for one in self.strengths):
            raise ControllerError(f"--strengths is {self.strengths}; each is from 0 to 1")
        if not all(0 <= one <= 100 for one in self.temperatures):
            raise ControllerError(f"--temperatures is {self.temperatures}; each is from 0 to 100")
        if not 1 <= self.votes <= MOST_VOTES:
            raise ControllerError(f"--votes is {self.votes}; it is from 1 to {MOST_VOTES}")
        if (self.perturb == "audio") != bool(self.sounds) or len(set(self.sounds)) < len(self.sounds):
            raise ControllerError("--sounds is for --perturb audio; give each once: --sounds silence,noise:-40")
        if self.sounds and max(self.lengths) > MOST_SECONDS:
            raise ControllerError(f"--lengths is {self.lengths}; a sound has at most {MOST_SECONDS} seconds")
        if self.perturb == "seed" and not any(self.temperatures):
            raise ControllerError("--perturb seed changes nothing at temperature 0; give --temperatures 0.6")
        if self.perturb == "temperature" and len(self.temperatures) < 2:
            raise ControllerError("--perturb temperature compares temperatures; give two or more: --temperatures 0,0.6")

    def conditions(self) -> list[Condition]:
        """All of them: of each temperature the clean one, the noise floor, and the perturbed ones."""
        found = []
        for t in self.temperatures:
            found.append(Condition(CLEAN, t))
            if t > 0:
                found.append(Condition(FLOOR, t))
            if self.perturb == "exit":
                found.append(Condition("exit", t))
            elif self.perturb == "audio":
                found += [Condition("audio", t, length, 0.0, sound) for sound in self.sounds for length in self.lengths]
            elif self.perturb == "options":
                found += [Condition("options", t, length) for length in self.lengths]
            elif self.perturb in PERTURB:
                found += [Condition(self.perturb, t, a, b) for b in self.strengths for a in self.lengths]
        return found

    def clean_of(self, one: Condition) -> Condition | None:
        """What a condition is compared with; None for the clean ones."""
        if one.perturb != CLEAN:
            return Condition(CLEAN, one.temperature)
        if self.perturb == "temperature" and one.temperature != self.temperatures[0]:
            return Condition(CLEAN, self.temperatures[0])
        return None

    def asks(self, problem: Problem, index: int) -> list[Ask]:
        """The runs of one problem: `votes` of each condition, in order."""
        first = 2 * index * MOST_VOTES
        return [
            Ask(
                one.changed(problem.question, str(index)),
                one.policy,
                first + (MOST_VOTES if one.perturb == FLOOR else 0) + i,
                exits=one.perturb == "exit",
                sound=one.sound,
                seconds=one.length if one.sound else 0,
            )
            for one in self.conditions()
            for i in range(self.votes)
        ]


@dataclass(frozen=True)
class Row:
    """One condition, compared with its clean runs."""

    condition: Condition
    """The condition."""
    votes: int
    """Runs of a problem that voted; 1: the first run alone."""
    clean_tokens: float
    """Mean tokens of a problem's answer in the clean runs: of all runs that voted."""
    tokens: float
    """The same under the condition."""
    truncated: float
    """Share of the condition's runs that the limit of new tokens ended."""
    unread: float
    """Share of problems for which the condition's runs state no answer."""
    compared: Comparison
    """What changed."""
    above_floor: float | None = None
    """One-sided exact p-value for more changed grades than another seed makes. None: another seed is no measure."""
    adjusted: float = 1.0
    """The p-value of equal accuracy after Holm's method over all rows."""

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        names = ("votes", "clean_tokens", "tokens", "truncated", "unread", "above_floor")
        found = {name: getattr(self, name) for name in names} | {"p_holm": self.adjusted}
        return vars(self.condition) | found | self.compared.to_json()


@dataclass(frozen=True)
class _Cell:
    """What the runs of a condition gave."""

    graded: list[Graded]
    tokens: float
    truncated: float

    @property
    def unread(self) -> float:
        return sum(not one.answer for one in self.graded) / len(self.graded)

    def changed(self, other: _Cell) -> list[bool]:
        """Whether the grade of each problem is another one."""
        return [a.right != b.right for a, b in zip(self.graded, other.graded, strict=True)]


def rows(grid: Grid, problems: Sequence[Problem], answers: Sequence[Sequence[Answered]], grader: Grader) -> list[Row]:
    """Every condition against its clean runs, for single runs and, where there are several, for votes.

    Args:
        grid: What was compared.
        problems: The problems.
        answers: The answers to each, in the order of `grid.asks`.
        grader: What grades them.
    """
    conditions = grid.conditions()
    found: list[Row] = []
    for k in dict.fromkeys((1, grid.votes)):
        cells: dict[Condition, _Cell] = {}
        for c, one in enumerate(conditions):
            runs = [each[c * grid.votes : c * grid.votes + k] for each in answers]
            graded = [_graded(grid, one, problem, made, grader) for problem, made in zip(problems, runs, strict=True)]
            every = [run for made in runs for run in made]
            cut = sum(run.finish == "length" for run in every) / len(every)
            cells[one] = _Cell(graded, sum(run.tokens for run in every) / len(problems), cut)
        found += [_row(grid, one, k, cells, problems, grader) for one in conditions if grid.clean_of(one) is not None]
    adjusted = holm([row.compared.p for row in found])
    return [replace(row, adjusted=p) for row, p in zip(found, adjusted, strict=True)]


def _row(
    grid: Grid, one: Condition, k: int, cells: dict[Condition, _Cell], problems: Sequence[Problem], grader: Grader
) -> Row:
    clean, own = cells[grid.clean_of(one) or one], cells[one]
    pairs = zip(problems, clean.graded, own.graded, strict=True)
    same = [_same(grader, problem, x.answer, y.answer) for problem, x, y in pairs]
    above, floor = None, cells.get(Condition(FLOOR, one.temperature))
    if floor is not None and floor is not own and not one.is_coupled:
        above = exceeds(clean.changed(own), clean.changed(floor))
    compared = compare(clean.graded, own.graded, same)
    return Row(one, k, clean.tokens, own.tokens, own.truncated, own.unread, compared, above)


def check_options(problems: Sequence[Problem], lengths: Sequence[int]) -> None:
    """Refuse what moved options can't tell.

    Args:
        problems: The problems.
        lengths: Places by which options move.

    Raises:
        ControllerError: A right answer is none of its options, so that nothing can be graded; or two lengths move the
            options of a question to the same places.
    """
    for problem in problems:
        question = moved(problem.question, 1)
        size, answer = len(question.options), stated_option(question.rotated(-1), problem.answer or "")
        if not answer:
            raise ControllerError(
                f"the answer of {problem.question[:60]!r} is {problem.answer!r}, which is none of its options; "
                "--perturb options needs a letter, or an option's text"
            )
        if len({length % size or 1 for length in lengths}) < len(lengths):
            raise ControllerError(
                f"--lengths is {','.join(map(str, lengths))}; among {size} options some of these moves are the same; "
                f"give each once, from 1 to {size - 1}"
            )


def _graded(grid: Grid, one: Condition, problem: Problem, runs: Sequence[Answered], grader: Grader) -> Graded:
    """The voted answer of some runs. Where options move, clean runs are read as the moved ones are."""
    asked = choice_question(problem.question) if grid.perturb == "options" else None
    if asked is None:
        return _voted(grader, problem, [run.text for run in runs])
    shown = moved(problem.question, one.length) if one.perturb == "options" else asked
    stated = [stated_option(shown, grader.extract(run.text)) for run in runs]
    chosen = vote(answer_classes(stated, str.__eq__))
    letter = "" if chosen is None else stated[chosen.index]
    return Graded(letter, letter != "" and letter == stated_option(asked, problem.answer or ""))


def _voted(grader: Grader, problem: Problem, texts: Sequence[str]) -> Graded:
    """The answer that most texts state, the earliest of equals; nothing where none states one."""
    classes = grader.classes(problem.question)
    stated = [grader.extract(text) for text in texts]
    for answer in stated:
        classes.add(answer)
    chosen = vote(classes.labels)
    if chosen is None:
        return Graded("", problem.answer is not None and grader.right(texts[0], problem))
    text = texts[chosen.index]
    return Graded(stated[chosen.index], grader.right(text, problem))


def _same(grader: Grader, problem: Problem, a: str, b: str) -> bool:
    """Two answers are the same; so are two that state nothing."""
    return a == b or bool(a and b and grader.alike(a, b, problem.question))
