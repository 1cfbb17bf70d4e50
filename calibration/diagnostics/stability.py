"""Does an answer survive what shouldn't change it? Paired runs of clean and perturbed questions, and the noise floor.

After "When Silence Matters" (arXiv 2510.00626). A perturbed run has the keys of its clean run. At a temperature above 0
two seeds of the clean question disagree too: that is the noise floor, and a perturbation below it shows nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from reasonctl.controller import ControllerError
from reasonctl.controller.selection import vote

from ..tasks.graders import Grader
from ..tasks.problem import Problem
from .answers_file import MOST_VOTES, Answered, Ask
from .paired import Comparison, Graded, compare, holm
from .perturb import PERTURB, Perturbed
from .sound import MOST_SECONDS

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

    def changed(self, question: str, key: str) -> Perturbed:
        """The question as this condition asks it."""
        change = PERTURB.get(self.perturb)
        return Perturbed(question) if change is None else change(question, key, self.length, self.strength)


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
                one.changed(problem.question, str(index)).question,
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
    tokens: float
    """Mean tokens of a problem's answer: of all runs that voted."""
    compared: Comparison
    """What changed."""
    adjusted: float = 1.0
    """The p-value after Holm's method over all rows."""

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        found = {"votes": self.votes, "tokens": self.tokens, "p_holm": self.adjusted}
        return vars(self.condition) | found | self.compared.to_json()


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
        graded: dict[Condition, list[Graded]] = {}
        tokens: dict[Condition, float] = {}
        for c, one in enumerate(conditions):
            runs = [each[c * grid.votes : c * grid.votes + k] for each in answers]
            graded[one] = [
                _voted(grader, problem, _read(one, problem, i, texts, grader))
                for i, (problem, texts) in enumerate(zip(problems, runs, strict=True))
            ]
            tokens[one] = sum(run.tokens for each in runs for run in each) / len(problems)
        for one in conditions:
            clean = grid.clean_of(one)
            if clean is not None:
                a, b = graded[clean], graded[one]
                same = [
                    _same(grader, problem, x.answer, y.answer) for problem, x, y in zip(problems, a, b, strict=True)
                ]
                found.append(Row(one, k, tokens[one], compare(a, b, same)))
    adjusted = holm([row.compared.p for row in found])
    return [Row(r.condition, r.votes, r.tokens, r.compared, p) for r, p in zip(found, adjusted, strict=True)]


def _read(one: Condition, problem: Problem, index: int, runs: Sequence[Answered], grader: Grader) -> list[str]:
    """The texts of the answers; where options moved, the original letters in place of those that were shown."""
    letters = one.changed(problem.question, str(index)).letters
    if letters is None:
        return [run.text for run in runs]
    stated = [grader.extract(run.text).strip("().: ")[:1].upper() for run in runs]
    return [letters.get(letter, "") for letter in stated]


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
