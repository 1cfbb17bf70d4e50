"""Answers to many problems under many conditions, made in order and kept in a file that a job can go on with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from reasonctl.controller import ControllerError, ExitRule
from reasonctl.controller.core import Fields

from ..parallel.run_jobs import ProgressCallback, processes_of
from ..runs.job_file import JobFile, append_made
from ..runs.making import PreparedRun, check_batch, run_window
from ..runs.recipe import Recipe, room_after
from ..runs.worker import AskedRun, answer_text, prepared

FORMAT = 1
"""Version of the format that is written."""
FIRST_RUN = 1 << 34
"""Run numbers of diagnostics start here: no uniform is shared with a calibration, an evaluation or a sample."""
CHECKED = 64
"""Asks, those with the longest questions, of which the longest run must fit."""
MOST_VOTES = 64
"""Most runs of a problem under one condition."""


@dataclass(frozen=True)
class Ask:
    """One run that a job asks for."""

    question: str
    """What the model reads."""
    policy: str
    """The sampling chain's text form."""
    run: int
    """The run's number. Two asks with the same number draw from the same uniforms at the same position of the whole
    sequence, so runs share them where their prompts have equal length."""
    exits: bool = False
    """Whether the job's exit rule is asked."""
    most: int = 0
    """Most new tokens; 0: the recipe's."""
    sound: str = ""
    """The sound before the question, as `sound_of` takes it; "": none."""
    seconds: int = 0
    """How long the sound is."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What the model answered."""

    text: str
    """The answer that a user reads: after thinking, and after an exit."""
    tokens: int
    """Tokens beyond the prompt: generated, forced, and of trials."""
    finish: str
    """Why the run ended: `stop` or `length`."""

    @classmethod
    def from_json(cls, value: Any, where: str) -> Answered:
        """From parsed JSON; ControllerError for anything but an answer's object."""
        found = Fields.of(value, where)
        found.only(list(cls.__slots__))
        return cls(found.text("text"), found.whole("tokens"), found.text("finish"))


@dataclass
class AnswersFile(JobFile):
    """One problem a line, with its answers in the order in which they were asked for."""

    what: ClassVar[str] = "answers"
    versions: ClassVar[tuple[int, ...]] = (FORMAT,)

    def append(self, answers: Sequence[Answered]) -> None:
        """Write the answers to one problem and make sure that they are on the disk."""
        self._write({"answers": [{name: getattr(one, name) for name in Answered.__slots__} for one in answers]})

    def read(self, each: int) -> list[list[Answered]]:
        """The answers to all problems, in order.

        Args:
            each: The number of answers to a problem.

        Raises:
            ControllerError: The file was changed; the line is named.
        """
        problems = []
        for number, value in self._lines():
            where = f"line {number} of {str(self.path)!r}"
            answers = [Answered.from_json(one, where) for one in Fields.of(value, where).items("answers")]
            if len(answers) != each:
                raise ControllerError(f"{where} has {len(answers)} answers, not {each}; the file was changed: --force")
            problems.append(answers)
        return problems


def answer(recipe: Recipe, asks: Sequence[Ask], rule: ExitRule | None) -> list[Answered]:
    """The answers to one problem; runs share forwards where the recipe asks for batches.

    Args:
        recipe: How runs are made; its policy gives way to each ask's.
        asks: What is asked.
        rule: The exit rule of those asks that want one.
    """
    model = recipe.load()
    made = []
    for run in run_window(model, [_prepared(recipe, one, rule) for one in asks], recipe.batch):
        trace = run.trace
        written = trace.tokens[trace.forced[0] :] if trace.forced else trace.tokens
        made.append(Answered(answer_text(recipe, model, written), trace.cost, str(trace.finish_reason)))
    return made


def has_room(recipe: Recipe, question: str) -> bool:
    """Whether a question leaves room for an answer in the model's context."""
    model = recipe.load()
    return room_after(model, len(model.prompt(question)), recipe.suffix) > 0


def check_asks(
    recipe: Recipe, problems: Sequence[Sequence[Ask]], rule: ExitRule | None, workers: int, *, besides: int = 0
) -> None:
    """Raise ControllerError, before any work, if the longest runs don't fit in the recipe's batches.

    Args:
        recipe: How runs are made.
        problems: What is asked of each problem; the asks of one share forwards.
        rule: The exit rule of those asks that want one.
        workers: Number of processes.
        besides: As in `check_batch`.
    """
    processes, batch = processes_of(workers, len(problems)), min(recipe.batch, max(map(len, problems), default=0))
    if batch > 1 or processes:
        longest = sorted((one for asks in problems for one in asks), key=lambda one: -len(one.question))[:CHECKED]
        runs = [_prepared(recipe, one, rule) for one in longest]
        check_batch(recipe.load(), runs, batch, processes=processes, besides=besides)


def _prepared(recipe: Recipe, one: Ask, rule: ExitRule | None) -> PreparedRun:
    most = min(one.most or recipe.max_new_tokens, recipe.max_new_tokens)
    asked = AskedRun(FIRST_RUN + one.run, one.question)
    own = replace(recipe, policy=one.policy, max_new_tokens=most)
    return prepared(own, recipe.load(), asked, rule if one.exits else None)


def collect_answers(
    work: Callable[[Sequence[Ask]], list[Answered]],
    problems: Sequence[Sequence[Ask]],
    file: AnswersFile,
    *,
    done: int,
    workers: int,
    progress: ProgressCallback,
) -> list[list[Answered]]:
    """Append the problems that the file doesn't hold yet, in order; then read all of the job's.

    Args:
        work: Gives the answers to one problem; it may run in another process.
        problems: What is asked of each problem; equally many runs of each.
        file: The open file; it holds `done` problems.
        done: Problems that are there.
        workers: Number of processes.
        progress: Called after each problem.
    """
    jobs = [(asks,) for asks in problems]
    append_made(work, jobs, lambda _, made: file.append(made), done=done, workers=workers, progress=progress)
    return file.read(len(problems[0]))[: len(problems)]
