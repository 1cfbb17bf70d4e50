"""Many samples of each problem, in sets that differ in how they are drawn; collected into a file.

A line of the file is one problem with all of its samples, graded. So the unit of the file is the problem, and whatever
is chosen from the samples later needs neither a model nor a grader. A job can go on with its file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

from reasonctl.controller import Controller, ControllerError, ExitRule, Trace
from reasonctl.controller.core import Fields
from reasonctl.controller.decoding import MOST_SAMPLES
from reasonctl.controller.selection import Codes, Scored

from ..parallel.run_jobs import ProgressCallback, processes_of
from ..tasks.graders import Grader
from ..tasks.problem import Problem
from ..tasks.sources import Task
from .collect import identity_of
from .job_file import JobFile, append_made
from .making import check_batch, longest_of
from .recipe import Recipe
from .records import MOST
from .worker import AskedRun, answer_text, prepared

FORMAT = 1
"""Version of the format that is written."""
FIRST_RUN = 1 << 33
"""Run numbers of samples start here: no uniform is shared with a run of a calibration or an evaluation."""
_OF_A_JOB = "give the .samples.jsonl that a job of this version wrote"


@dataclass(frozen=True)
class SampleSet:
    """Samples of a prompt that are drawn in one way."""

    name: str
    """What the file calls it."""
    n: int
    """Number of samples of each problem."""
    policy: str
    """The sampling chain's text form."""
    codes: Codes = "independent"
    """How the samples depend on each other."""
    rule: ExitRule | None = None
    """The exit rule inside each sample."""
    drafted: bool = False
    """Whether the recipe's drafter proposes tokens."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample, graded."""

    cost: int
    """Its tokens beyond the prompt: generated, forced, and of trials."""
    rejected: int
    """Drafted tokens that were rejected; not in `cost`."""
    text: str
    """The answer that a user reads."""
    label: int | None
    """The class of its answer among those of its set; None: it states none."""
    right: bool
    """Whether the grader accepts it."""
    logprob: float | None
    """Mean log-probability of its drawn tokens, in nats."""

    @classmethod
    def from_json(cls, value: Any, where: str) -> Sample:
        """From parsed JSON; ControllerError for anything but a sample's object."""
        found = Fields.of(value, where)
        found.only(list(cls.__slots__))
        return cls(
            found.whole("cost", 0, MOST),
            found.whole("rejected", 0, MOST),
            found.text("text"),
            found.optional(lambda name: found.whole(name, 0, MOST_SAMPLES), "label"),
            found.flag("right"),
            found.number_or_null("logprob"),
        )


@dataclass(frozen=True)
class SampledProblem:
    """One problem and all of its samples."""

    question: str
    """The question."""
    sets: dict[str, tuple[Sample, ...]]
    """The samples of each set, by its name, in their order."""

    def votes(self, name: str) -> list[int | None]:
        """The classes of a set's answers."""
        return [one.label for one in self.sets[name]]

    @classmethod
    def from_json(cls, value: Any, where: str) -> SampledProblem:
        """From parsed JSON; ControllerError for anything else."""
        found = Fields.of(value, where)
        found.only(["question", "sets"])
        sets = found.inner("sets")
        made = {
            name: tuple(Sample.from_json(one, f"sample {i} of {name!r} in {where}") for i, one in enumerate(items, 1))
            for name in sets.values
            for items in [sets.items(name)]
        }
        return cls(found.text("question"), made)


@dataclass
class SamplesFile(JobFile):
    """Sampled problems, one a line."""

    what: ClassVar[str] = "samples"
    versions: ClassVar[tuple[int, ...]] = (FORMAT,)

    def _compare(self, stored: dict[str, Any], wanted: dict[str, Any]) -> None:
        """As for any job; a file from before tasks had digests goes on with whatever its task holds now."""
        super()._compare({"tasks_digest": wanted.get("tasks_digest")} | stored, wanted)

    def append(self, one: SampledProblem) -> None:
        """Write one problem and make sure that it is on the disk."""
        self._write(asdict(one))

    def read(self) -> list[SampledProblem]:
        """All problems, in order.

        Raises:
            ControllerError: The file is another one, or was changed; the line is named.
        """
        settings = self._header(self._first_line(), _OF_A_JOB).settings
        sizes = {one.text("name"): one.whole("n", 1, MOST_SAMPLES) for one in map(_set_of, settings.items("sets"))}
        problems = []
        for number, value in self._lines():
            where = f"line {number} of {str(self.path)!r}"
            one = SampledProblem.from_json(value, where)
            if {name: len(samples) for name, samples in one.sets.items()} != sizes:
                raise ControllerError(f"{where} has other samples than its header says; the file was changed")
            problems.append(one)
        return problems


def _set_of(value: Any) -> Fields:
    return Fields.of(value, "a set of the header")


def settings_of(recipe: Recipe, task: Task, sets: Sequence[SampleSet], probe: str | None) -> dict[str, Any]:
    """What two jobs must share to share a file of samples: everything that changes a sample, and no path of a machine.

    Args:
        recipe: How runs are made.
        task: Where the problems come from, and what grades the answers.
        sets: What is drawn of each problem.
        probe: The digest of the exit rule's probe and its promise. None: there is no rule.
    """
    return {
        "model": identity_of(recipe.load()),
        **task.identity(),
        "grader": task.grader.name,
        "seed": recipe.seed,
        "max_new_tokens": recipe.max_new_tokens,
        "markers": recipe.markers,
        "draft": recipe.draft if any(one.drafted for one in sets) else "none",
        "batch": recipe.batch,
        "probe": probe,
        "sets": [{"name": one.name, "n": one.n, "policy": one.policy, "codes": one.codes} for one in sets],
    }


@dataclass(frozen=True, slots=True)
class _Drawn:
    """One sample, before it is graded."""

    cost: int
    rejected: int
    text: str
    logprob: float | None


def sample_problem(recipe: Recipe, index: int, question: str, sets: Sequence[SampleSet]) -> list[list[_Drawn]]:
    """The samples of one problem, a list for each set. Sets share their keys, so that they differ in nothing else.

    Args:
        recipe: How runs are made; its policy gives way to each set's.
        index: The problem's number in its job.
        question: The question.
        sets: What is drawn.
    """
    return [_draw(replace(recipe, policy=one.policy), index, question, one) for one in sets]


def _draw(recipe: Recipe, index: int, question: str, one: SampleSet) -> list[_Drawn]:
    model = recipe.load()
    call = recipe.call(model, question, FIRST_RUN + index * MOST_SAMPLES)
    call = replace(call, policy=Scored(call.policy))
    thinking = None if one.rule else recipe.thinking(model)
    drafter = recipe.drafter() if one.drafted else None
    controller = Controller(exit=one.rule, drafter=drafter, thinking=thinking, codes=one.codes)
    with controller.samples(model.engine, model.tokenizer, call, one.n, at_once=recipe.batch) as running:
        return [_drawn(trace, answer_text(recipe, model, trace.tokens)) for trace in running]


def _drawn(trace: Trace, text: str) -> _Drawn:
    return _Drawn(trace.cost, trace.drafted - trace.accepted, text, trace.mean_logprob)


def graded(
    problem: Problem, sets: Sequence[SampleSet], drawn: Sequence[Sequence[_Drawn]], grader: Grader
) -> SampledProblem:
    """The samples of a problem with their grades and the classes of their answers."""
    found = {}
    for one, samples in zip(sets, drawn, strict=True):
        classes = grader.classes(problem.question)
        found[one.name] = tuple(
            Sample(
                each.cost,
                each.rejected,
                each.text,
                classes.add(grader.extract(each.text)),
                problem.answer is not None and grader.right(each.text, problem),
                each.logprob,
            )
            for each in samples
        )
    return SampledProblem(problem.question, found)


def check_samples(recipe: Recipe, problems: Sequence[Problem], sets: Sequence[SampleSet], workers: int) -> None:
    """Raise ControllerError, before any work, if the longest prompt's samples don't fit in the recipe's batches.

    Args:
        recipe: How runs are made.
        problems: All problems of the job.
        sets: What is drawn of each.
        workers: Number of processes.
    """
    processes = processes_of(workers, len(problems))
    if problems and (recipe.batch > 1 or processes):
        model = recipe.load()
        longest = AskedRun(FIRST_RUN, longest_of(model, problems))
        for one in sets:
            own = replace(recipe, policy=one.policy)
            check_batch(model, [prepared(own, model, longest, one.rule)], min(recipe.batch, one.n), processes=processes)


def collect_samples(
    recipe: Recipe,
    problems: Sequence[Problem],
    grader: Grader,
    sets: Sequence[SampleSet],
    file: SamplesFile,
    *,
    done: int,
    workers: int,
    progress: ProgressCallback,
) -> list[SampledProblem]:
    """Append the problems that the file doesn't hold yet, in order; then all of the job's.

    Args:
        recipe: How runs are made.
        problems: All problems of the job.
        grader: What grades the answers.
        sets: What is drawn of each.
        file: The open file; it holds `done` problems.
        done: Problems that are there.
        workers: Number of processes.
        progress: Called after each problem.
    """
    jobs = [(recipe, i, problem.question, sets) for i, problem in enumerate(problems)]

    def append(i: int, drawn: list[list[_Drawn]]) -> None:
        file.append(graded(problems[i], sets, drawn, grader))

    append_made(sample_problem, jobs, append, done=done, workers=workers, progress=progress)
    return file.read()[: len(problems)]
