"""Fresh problems run twice, with and without control, from the same random numbers; both next to baseline rules."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from reasonctl.controller import ExitRule
from reasonctl.probes.files import ProbeFile
from reasonctl.probes.risk import Mode, upper_bound

from ..parallel.run_jobs import ProgressCallback, run_jobs
from ..runs.collect import graded
from ..runs.making import windows_of
from ..runs.recipe import Recipe
from ..runs.records import RunRecord
from ..runs.room import LEFT_OUT
from ..runs.splits import calibration_stream, evaluation_stream
from ..runs.worker import ArmRecord, AskedRun, collect_runs, compare_runs
from ..tasks.graders import Grader
from ..tasks.problem import Problem, Prompt
from ..tasks.sources import Task
from .evaluation_file import Evaluated, EvaluationFile

EVALUATION_OFFSET = 1 << 32
"""Run numbers of evaluations start here: no uniform is shared with a run of the calibration."""


@dataclass(frozen=True)
class Pair:
    """One problem in both arms, graded."""

    baseline: ArmRecord
    """The run without control."""
    controlled: ArmRecord
    """The run under the rule."""
    same: bool
    """Whether the grader holds the two answers equal."""
    record: RunRecord | None = None
    """The run without control, with an exit tried at every cue. None: it wasn't collected."""


def evaluate_pairs(
    recipe: Recipe,
    problems: Sequence[Problem],
    grader: Grader,
    rule: ExitRule,
    *,
    workers: int,
    with_baselines: bool,
    progress: ProgressCallback,
    each: Callable[[Problem, Pair], None] = lambda problem, pair: None,
    file: EvaluationFile | None = None,
) -> list[Pair]:
    """Both arms of every problem, interleaved: window by window, in index order.

    Args:
        recipe: How the runs are made.
        problems: One pair each.
        grader: What grades the answers of both arms.
        rule: The rule of the controlled arm.
        workers: Number of processes.
        with_baselines: Also collect what the baselines need.
        progress: Called after every window.
        each: Called with every pair that is made, in order, as soon as it is graded.
        file: The job's, open; what it holds isn't made again. None: nothing is kept.
    """
    asked = [AskedRun(EVALUATION_OFFSET + i, problem.question) for i, problem in enumerate(problems)]
    windows = windows_of(asked, recipe.batch)
    jobs = [(recipe, window, rule, with_baselines, k % 2 == 0) for k, window in enumerate(windows)]
    held = [] if file is None else file.read(windows)
    known = [evaluated for window in held for evaluated in window]
    pairs = [_graded_pair(one, problem, grader) for one, problem in zip(known, problems, strict=False)]
    progress(len(pairs), len(problems))
    for window in _made(jobs[len(held) :], workers, file):
        for evaluated in window:
            problem = problems[len(pairs)]
            pairs.append(_graded_pair(evaluated, problem, grader))
            each(problem, pairs[-1])
        progress(len(pairs), len(problems))
    return pairs


def _made(jobs: Sequence[tuple[Any, ...]], workers: int, file: EvaluationFile | None) -> Iterator[list[Evaluated]]:
    """The windows of these jobs, in order, each in the file before it is handed on."""
    with closing(run_jobs(evaluate_window, jobs, workers=min(workers, len(jobs)))) as made:
        for (_, asked, *_), window in zip(jobs, made, strict=True):
            if file is not None:
                file.append([one.question for one in asked], window)
            yield window


def evaluate_window(
    recipe: Recipe, window: Sequence[AskedRun], rule: ExitRule, with_baselines: bool, baseline_first: bool
) -> list[Evaluated]:
    """The runs of some problems; those of one arm share forwards where the recipe asks for batches."""
    records = collect_runs(recipe, window) if with_baselines else [None] * len(window)
    return list(map(Evaluated, compare_runs(recipe, window, rule, baseline_first=baseline_first), records))


def _graded_pair(evaluated: Evaluated, problem: Problem, grader: Grader) -> Pair:
    baseline, controlled = (
        replace(arm, right=problem.answer is not None and grader.right(arm.answer, problem)) for arm in evaluated.arms
    )
    same = grader.same(controlled.answer, baseline.answer, problem.question)
    record = None if evaluated.record is None else graded(evaluated.record, problem, grader)
    return Pair(baseline, controlled, same, record)


def summary(pairs: Sequence[Pair], mode: Mode, *, graded: bool = True) -> dict[str, Any]:
    """The figures of `ctl eval --json` that come from the runs.

    Args:
        pairs: Both arms of every problem.
        mode: What `failure` counts; `harm` is the same whatever the mode.
        graded: Whether there were gold answers. Without them accuracy, harm and help are None.
    """
    n = len(pairs)
    exits = [p.controlled.exit for p in pairs]
    counts = np.bincount([e for e in exits if e is not None], minlength=1) if n else np.zeros(1)
    exited = n - exits.count(None)
    helped = sum(not p.baseline.right and p.controlled.right for p in pairs)
    lost = sum(p.baseline.right and not p.controlled.right for p in pairs)
    return {
        "n": n,
        "baseline": _arm([p.baseline for p in pairs], graded),
        "controlled": _arm([p.controlled for p in pairs], graded),
        "accuracy_difference": paired_difference(helped, lost, n) if graded else None,
        "exit_rate": exited / n,
        "exits_at": [int(count) for count in counts],
        "harm": _share(sum(failed(p, "harm") for p in pairs), n) if graded else None,
        "help": {"count": helped, "rate": helped / n} if graded else None,
        "failure": {"mode": mode, **_share(sum(failed(p, mode) for p in pairs), exited if mode == "selective" else n)},
        "drafted": sum(p.controlled.drafted for p in pairs),
    }


def failed(pair: Pair, mode: Mode) -> bool:
    """Whether the controlled run failed in the sense of the mode; only a run that exits can.

    `event` promises nothing of a run: there it is whether the run exits with a wrong answer, as in `wrong`.
    """
    if pair.controlled.exit is None:
        return False
    if mode == "disagree":
        return not pair.same
    return not pair.controlled.right and (mode != "harm" or pair.baseline.right)


def _share(count: int, n: int) -> dict[str, float]:
    """A count of `n` runs, as a share with its one-sided 90 % Clopper-Pearson bound (`upper`)."""
    return {"count": count, "n": n, "rate": count / n if n else 0.0, "upper": upper_bound(count, n)}


def _arm(runs: Sequence[ArmRecord], graded: bool) -> dict[str, float | None]:
    return {
        "accuracy": float(np.mean([run.right for run in runs])) if graded else None,
        "tokens": float(np.mean([run.tokens for run in runs])),
        "seconds": float(np.mean([run.seconds for run in runs])),
    }


def paired_difference(gained: int, lost: int, n: int) -> dict[str, float]:
    """Accuracy difference of paired runs with its 95 % interval (Agresti & Min 2005: Wald on counts with 0.5 added)."""
    size = n + 2
    centre = (gained - lost) / size
    variance = ((gained + lost + 1) - (gained - lost) ** 2 / size) / size**2
    half = 1.959964 * math.sqrt(variance)
    return {"mean": (gained - lost) / n, "low": centre - half, "high": centre + half}


def fresh(
    task: Task,
    content: ProbeFile,
    n: int,
    seed: int,
    domain: str | None = None,
    *,
    prompt: Prompt,
    runs: Sequence[RunRecord] | None = None,
) -> list[Problem]:
    """Problems that are in neither split of the probe, and share no prompt with one that is.

    Args:
        task: Where they come from.
        content: The probe file.
        n: How many.
        seed: Of the evaluation.
        domain: The one that the promise is about. None: all.
        prompt: Gives a question's tokens.
        runs: The runs that the probe was made from. None: they aren't at hand; then the problems of the calibration are
            drawn anew if the task is the card's, and known by their ids else.
    """
    card = content.card
    known = [Problem(record.question, None) for record in runs or ()]
    if card.tasks == task.name:
        used = sum(card.runs.values()) + int(str(card.report.get(LEFT_OUT, 0)))
        known += task.problems(used, stream=calibration_stream(card.seeds["seed"]), prompt=prompt)
    ids = frozenset(content.table.problem.tolist())
    return task.problems(n, stream=evaluation_stream(seed), exclude=ids, domain=domain, apart=known, prompt=prompt)
