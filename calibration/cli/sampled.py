"""What the commands share that sample many problems: the model, the problems, and the file that a job goes on with."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from reasonctl.backends import Model
from reasonctl.probes import ProbeExit
from reasonctl.probes.files import check_target, digest_of

from ..evaluation.intervals import Interval
from ..evaluation.pairs import fresh
from ..runs.recipe import Recipe
from ..runs.room import with_room
from ..runs.sampled import SampledProblem, SampleSet, SamplesFile, check_samples, collect_samples, settings_of
from ..runs.splits import evaluation_stream
from ..tasks.problem import Problem
from ..tasks.sources import Task, load_task
from .calibrate import show_left_out
from .console import Console
from .flags import PROMISE
from .options import Options
from .recipes import open_any

AT_ONCE = 8
"""Samples that run at the same time where nobody asks for a number."""
VOTE_UNIT = "no per-run promise covers a vote, and samples of one prompt are one unit: the unit is the problem"
"""What every command says that prints votes."""
OF_VOTES = ("risk", "confidence")
"""Options of a probe's promise that mean something to votes too."""


@dataclass(frozen=True)
class SamplingJob:
    """What is sampled, on what."""

    rule: ProbeExit | None
    """The exit rule inside samples; None: there is none."""
    model: Model
    """The model."""
    recipe: Recipe
    """How runs are made."""
    task: Task
    """Where the problems come from."""
    problems: list[Problem]
    """The problems; a probe saw none of them."""
    room: dict[str, int]
    """What the command's JSON says of questions and runs that were too long for the context."""


def open_job(
    show: Console,
    command: str,
    name: str,
    options: Options,
    *,
    tasks: str,
    probe: str | None,
    n: int,
    samples: int,
    out: str,
    votes: bool = True,
) -> SamplingJob:
    """Load the model and choose `n` problems; what can be refused is refused before the model loads.

    Args: the command's name and options; samples: most of a problem in one set; votes: risk and confidence mean
    something to votes too, and so without a probe.
    """
    check_target(out, options.force)
    task = load_task(tasks, grader=options.grader)
    options = options.batched(min(samples, AT_ONCE))
    promised = [name for name in PROMISE if not (votes and name in OF_VOTES)]
    rule, model, recipe = open_any(
        show, command, name, options, probe, *promised, because="nothing decides about exits"
    )
    if rule is None:
        drawn = task.problems(n, stream=evaluation_stream(options.seed), prompt=model.prompt)
    else:
        drawn = fresh(task, rule.content, n, options.seed, options.domain, prompt=model.prompt)
    asked = with_room(model, drawn, recipe.max_new_tokens, recipe.suffix)
    show_left_out(show, asked, task)
    return SamplingJob(rule, model, recipe, task, asked.problems, asked.report())


def probe_text(rule: ProbeExit | None) -> str:
    """What tells probes and their promises apart; "" for no rule."""
    return "" if rule is None else f"{digest_of(rule.content)} {rule.promise}"


def samples_path(out: str) -> Path:
    """The file of the samples, next to what is made of them: P has P.samples.jsonl."""
    return Path(out + ".samples.jsonl")


def sampled(
    show: Console, job: SamplingJob, sets: Sequence[SampleSet], options: Options, out: str, name: str
) -> list[SampledProblem]:
    """The samples of all problems; those of an earlier job of the same settings are read and not made again."""
    rule, recipe, task = job.rule, job.recipe, job.task
    workers = options.machine(name)[0]
    check_samples(recipe, job.problems, sets, workers)
    settings = settings_of(recipe, task, sets, probe_text(rule) or None) | {"n": len(job.problems)}
    with closing(SamplesFile(samples_path(out), settings)) as file:
        done = file.open(force=options.force)
        if done:
            show.say(f"{min(done, len(job.problems))} problems are there already")
        with show.progress("sampling") as progress:
            return collect_samples(
                recipe,
                job.problems,
                task.grader,
                sets,
                file,
                done=done,
                workers=workers,
                progress=progress,
            )


def share_cell(share: Interval) -> str:
    """A share and its interval in per cent, for a table."""
    return f"{100 * share.mean:.1f} ({100 * share.low:.0f}-{100 * share.high:.0f})"


def points_cell(difference: Interval) -> str:
    """A difference of shares and its interval in points, for a table."""
    return f"{100 * difference.mean:+z.1f} ({100 * difference.low:+z.0f} {100 * difference.high:+z.0f})"
