"""Which text closes thinking and asks for the answer: candidates by task, and the choice by what they gave when tried.

The choice belongs to the fitting runs, before the first calibration run.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

from reasonctl.controller import Closing
from reasonctl.controller.thinking import ANSWER_CUE, Format

from ..parallel.run_jobs import run_jobs
from ..runs.closings import collect_closings
from ..runs.collect import graded
from ..runs.logged import LoggedRun
from ..runs.making import windows_of
from ..runs.recipe import Recipe
from ..runs.records import CueRecord, RunRecord
from ..runs.trials import Trials
from ..runs.worker import AskedRun
from ..tasks.graders import Grader
from ..tasks.problem import Problem

BOX = "The final answer is \\boxed{"
"""LYNX, DEER and Dynasor ask for a box too."""
LINE = "The final answer is"
LETTER = "Answer:"

_LETTER = re.compile(r"\s*\(?[A-J]\)?\s*")
MOST_WORDS = 8
"""Words of an answer that a box is asked for; a longer one is open text."""
OPEN_SHARE = 0.1
"""Share of longer answers above which a task asks for open text."""
NEARLY = 0.02
"""A share of complete answers this near to the largest is as good; this near to all, no further way is tried."""
TRIED_RUNS = 4
"""Fitting runs on which the candidates are tried."""


def boxed(found: Format) -> Closing:
    r"""Asks for \boxed{...}; the answer ends where the box closes."""
    return Closing(_asking(found, BOX), "box")


def lined(found: Format, ask: str = LINE) -> Closing:
    """Asks in a sentence; the answer ends with its line."""
    return Closing(_asking(found, ask), "line")


def plain(found: Format) -> Closing:
    """What the model's own turns show, or the usual text for a model without markers; the model ends the answer."""
    return Closing(found.suffix)


def candidates(found: Format, answers: Sequence[str]) -> tuple[Closing, ...]:
    r"""The closings that may suit a model and a task, each after the suffix that the model's template shows.

    A letter first where all answers are single letters from A to J. Open text is asked for nothing: a box would cut
    it short. Everything else may be boxed, or stand in a line.

    Args:
        found: How the model's turns mark its thinking.
        answers: Right answers of the task, or answers of full runs where there are none. Empty: nothing is known.

    >>> from reasonctl.controller.thinking import read_template
    >>> [(one.suffix[-8:], one.answer_ends) for one in candidates(read_template(None), ["12", "7"])]
    [(' \\boxed{', 'box'), ('nswer is', 'line'), ('nswer is', 'model')]
    """
    if answers and all(map(_LETTER.fullmatch, answers)):
        return lined(found, LETTER), boxed(found), plain(found)
    long = sum(len(answer.split()) > MOST_WORDS for answer in answers)
    if long > OPEN_SHARE * len(answers):
        return (plain(found),)
    return boxed(found), lined(found), plain(found)


def _asking(found: Format, ask: str) -> str:
    """The template's own suffix, and a question after it."""
    if found.markers is None:
        return "\n\n" + ask if found.suffix == ANSWER_CUE else found.suffix + ask
    return found.suffix + ("\n\n" if found.suffix.endswith(found.markers.close) else "") + ask


@dataclass(frozen=True)
class ClosingCounts:
    """A closing, and what it gave where it was tried."""

    closing: Closing
    """The closing."""
    tried: int
    """Cues at which it was tried."""
    complete: int
    """Answers that ended by its rule, or with the model's own end."""
    right: int
    """Right answers; where there is no gold answer, those that say what the full run says."""
    tokens: int
    """Tokens of all forced texts and answers."""

    @property
    def line(self) -> str:
        """The counts for people."""
        n = max(1, self.tried)
        return (
            f"{self.closing.suffix!r}, ends with the {self.closing.answer_ends}: {self.complete} of {self.tried} "
            f"complete, {self.right} right, {self.tokens / n:.1f} tokens each"
        )


@dataclass(frozen=True)
class ChosenClosing:
    """The closing that is used, and how it was found."""

    closing: Closing
    """The closing."""
    counts: tuple[ClosingCounts, ...]
    """All candidates that were tried, in their order."""
    runs: tuple[RunRecord, ...] = ()
    """The runs on which it was tried, collected under it and graded: the first fitting runs of the job."""

    @property
    def untried(self) -> bool:
        """No cue was met, so that the first candidate stands for want of a choice."""
        return not any(one.tried for one in self.counts)


def _tried(runs: Sequence[RunRecord]) -> list[tuple[CueRecord, RunRecord]]:
    """The cues at which exits were tried, with their runs."""
    return [(cue, run) for run in runs for cue in (*run.cues, *run.others) if cue.labelled]


def tried_at(runs: Sequence[RunRecord]) -> set[tuple[int, int]]:
    """The cues at which exits were tried: run and position of each."""
    return {(run.run, cue.position) for cue, run in _tried(runs)}


def count(closing: Closing, runs: Sequence[RunRecord], at: Set[tuple[int, int]]) -> ClosingCounts:
    """What a closing gave on runs that were collected under it, and graded. at: the cues that are counted."""
    tried = [(cue, run) for cue, run in _tried(runs) if (run.run, cue.position) in at]
    return ClosingCounts(
        closing,
        len(tried),
        sum(cue.complete is True for cue, _ in tried),
        sum(cue.right if run.gold is not None else cue.same for cue, run in tried),
        sum(cue.trial for cue, _ in tried),
    )


def counts_of(made: Mapping[Closing, Sequence[RunRecord]]) -> list[ClosingCounts]:
    """What each closing gave on its runs, at the cues at which all were tried."""
    common = set.intersection(*map(tried_at, made.values()))
    return [count(closing, records, common) for closing, records in made.items()]


def choose(counts: Sequence[ClosingCounts]) -> ChosenClosing:
    """The candidate with the most complete answers; among those nearly as good the most right ones, then the cheapest.

    Where nothing was tried it is the first one.
    """
    seen = [one for one in counts if one.tried]
    if not seen:
        return ChosenClosing(counts[0].closing, tuple(counts))
    most = max(one.complete / one.tried for one in seen)
    whole = [one for one in seen if one.complete / one.tried >= most - NEARLY]
    best = max(whole, key=lambda one: (one.right / one.tried, -one.tokens / one.tried))
    return ChosenClosing(best.closing, tuple(counts))


def suffices(counts: Sequence[ClosingCounts], runs: Sequence[RunRecord]) -> bool:
    """Whether what was tried needs no further candidate: one's answers are nearly all complete, and some are right.

    Where no full run is right, no answer need be. Where nothing could be tried, trying more tells nothing.

    Args:
        counts: What the candidates gave.
        runs: The runs on which they were tried.
    """
    able = any(run.right or run.gold is None for run in runs)
    seen = [one for one in counts if one.tried]
    return not seen or any(one.complete >= (1 - NEARLY) * one.tried and (one.right or not able) for one in seen)


def stages(closings: Sequence[Closing]) -> list[tuple[Closing, ...]]:
    """Candidates in the order of their cost: those whose answer ends with its box or line, then the model's own ends.

    An answer that the model ends itself may be long, and a trial of it then costs as much as a run. So a later stage is
    tried only where the one before doesn't suffice.
    """
    own = tuple(one for one in closings if one.answer_ends == "model")
    asked = tuple(one for one in closings if one.answer_ends != "model")
    return [part for part in (asked, own) if part]


def choose_suffix(
    recipe: Recipe,
    closings: Sequence[Closing],
    runs: Sequence[tuple[int, Problem]],
    grader: Grader,
    *,
    which: Trials,
    identity: dict[str, str] | None = None,
    logged: Mapping[int, LoggedRun] | None = None,
    workers: int | str = 1,
    deadline: float | None = None,
) -> ChosenClosing | None:
    """Collect a few fitting runs under the candidates, in `stages`, and choose.

    Args:
        recipe: How the runs are made; its own suffix isn't used.
        closings: The candidates.
        runs: Indices of fitting runs, with their problems.
        grader: What grades the answers.
        which: At which cues exits are tried, as in all fitting runs.
        identity: As in `collect_checked`.
        logged: The runs' tokens by the ids of their problems, where they were made elsewhere.
        workers: As in `run_jobs`.
        deadline: The time, of `time.monotonic`, after which no further run is tried. None: no limit.

    Returns None if the deadline came first: a choice on fewer runs would depend on the machine's speed.
    """
    asked = [AskedRun(index, problem.question, (logged or {}).get(problem.id)) for index, problem in runs]
    windows, made = windows_of(asked, recipe.batch), dict[Closing, list[RunRecord]]()
    for stage in stages(closings):
        jobs = [(identity, recipe, stage, window, which) for window in windows]
        if (found := _collected(jobs, len(runs), workers, deadline)) is None:
            return None
        for i, closing in enumerate(stage):
            made[closing] = [graded(one[i], problem, grader) for one, (_, problem) in zip(found, runs, strict=True)]
        counts = counts_of(made)
        if suffices(counts, made[stage[0]]):
            break
        which = replace(which, often=1.0)  # a later stage is there to be compared
    return replace(choose(counts), runs=tuple(made[choose(counts).closing]))


def _collected(
    jobs: Sequence[tuple[Any, ...]], runs: int, workers: int | str, deadline: float | None
) -> list[tuple[RunRecord, ...]] | None:
    """So many runs, each under all closings of a stage; None if the deadline came before the last."""
    found: list[tuple[RunRecord, ...]] = []
    with contextlib.closing(run_jobs(collect_closings, jobs, workers=workers)) as windows:
        for window in windows:
            found += window
            if deadline is not None and time.monotonic() > deadline and len(found) < runs:
                return None
    return found
