"""Collects runs: full ones, with a forced exit tried at every cue; resumable, spread over processes or machines."""

from __future__ import annotations

import platform
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from reasonctl.backends.model import Model
from reasonctl.controller import ControllerError

from .graders import Grader
from .problem import Problem
from .recipe import Recipe
from .runs import RunFile, unpack
from .spread import spread
from .tasks import Task
from .worker import collect_run

TEXT_FEATURES = 6
ANSWERS_CUT = "answers_cut"
"""Name of `share_cut` in a card's report."""

Progress = Callable[[int, int], None]
"""Called with (runs done, runs wanted)."""


def settings_of(recipe: Recipe, task: Task, model: Model, n: int) -> dict[str, Any]:
    """What two jobs must share to share a file of runs: everything that changes a record, and no path of a machine."""
    shared = asdict(recipe)
    for machine in ("model", "backend", "threads"):
        shared.pop(machine)
    return {**shared, "model": identity_of(model), "tasks": task.name, "grader": task.grader.name, "n": n}


def identity_of(model: Model) -> dict[str, str]:
    """What tells models apart whose runs differ, as far as that can be seen without reading all weights."""
    return {"backend": model.backend, "fingerprint": model.fingerprint(), **model.settings}


def collect(
    recipe: Recipe, problems: Sequence[Problem], grader: Grader, file: RunFile, *,
    done: int, workers: int | str, progress: Progress, deadline: float | None = None,
    warn: Callable[[str], None] = warnings.warn,
) -> bool:  # fmt: skip
    """Append the runs that the file doesn't hold yet, in order; False if the deadline (monotonic) came first."""
    identity = file.settings.get("model")
    jobs = [(identity, recipe, i, problems[i].question) for i in range(done, len(problems))]
    progress(done, len(problems))
    with closing(spread(collect_checked, jobs, workers=workers, warn=warn)) as results:
        for i, record in enumerate(results, start=done):
            file.append(graded(record, problems[i], grader))
            progress(i + 1, len(problems))
            if deadline is not None and time.monotonic() > deadline and i + 1 < len(problems):
                return False
    return True


def collect_checked(identity: dict[str, str] | None, recipe: Recipe, index: int, question: str) -> dict[str, Any]:
    """`collect_run`, if the worker's model is the job's: another machine may hold another one under the same name."""
    if identity is not None and _identity(recipe) != identity:
        raise ControllerError(
            f"the model {recipe.model!r} on {platform.node()} isn't the one that this job began with; copy it there"
        )
    return collect_run(recipe, index, question)


@cache
def _identity(recipe: Recipe) -> dict[str, str]:
    return identity_of(recipe.load())


def graded(record: dict[str, Any], problem: Problem, grader: Grader) -> dict[str, Any]:
    """The record with `right` and `same`; without a gold answer nothing is right."""
    known = problem.answer is not None
    looks = {
        part: [
            {
                **cue,
                "right": known and grader.right(cue["answer"], problem),
                "same": grader.same(cue["answer"], record["answer"]),
            }
            for cue in record[part]
        ]
        for part in ("cues", "others")
    }
    right = known and grader.right(record["answer"], problem)
    named = {"problem": problem.id, "domain": problem.domain, "gold": problem.answer}
    return {**record, **named, "right": right, **looks}


def share_cut(records: Sequence[dict[str, Any]], limit: int) -> float:
    """Share of the tried answers that filled their limit, so that nobody knows how long they would have been."""
    lengths = [len(cue["logprobs"]) for record in records for cue in record["cues"]]
    return sum(length >= limit for length in lengths) / len(lengths) if lengths else 0.0


def cut_told(share: float, limit: int) -> str | None:
    """What answers that were cut mean for everything counted from them; None if there are none."""
    if not share:
        return None
    return (
        f"{share:.1%} of the tried answers were cut at {limit} tokens. They were judged by what they say up to there; "
        "a deployed exit writes on to its own end, so it saves less than is counted here. Measure it with ctl eval, "
        f"or try longer answers: --answer-tokens {4 * limit}"
    )


@dataclass(frozen=True)
class Cut:
    """Collected runs as arrays; cues of run i are offsets[i] : offsets[i + 1].

    features: (cues, width) hidden states; text: (cues, 6) what a rule without hidden states could use.
    """

    records: list[dict[str, Any]]
    offsets: npt.NDArray[np.int64]
    features: npt.NDArray[np.float32]
    text: npt.NDArray[np.float64]

    def per_cue(self, name: str) -> list[Any]:
        return [cue[name] for record in self.records for cue in record["cues"]]

    def per_run(self, name: str) -> list[Any]:
        return [record[name] for record in self.records]


def cut(records: list[dict[str, Any]]) -> Cut:
    """Arrays of some runs."""
    lengths = [len(record["cues"]) for record in records]
    features = [unpack(cue["hidden"]) for record in records for cue in record["cues"]]
    text = [row for record in records for row in text_features(record["cues"])]
    return Cut(
        records,
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        np.stack(features) if features else np.zeros((0, 0), np.float32),
        np.array(text, dtype=np.float64).reshape(len(features), TEXT_FEATURES),
    )


def text_features(cues: list[dict[str, Any]]) -> list[list[float]]:
    """Per cue: log tokens so far, whether the last number written is that of the cue before, for how many cues it
    has stood, how many cues hold it, how many different ones there were, and the cue's index."""
    rows: list[list[float]] = []
    values: list[str] = []
    standing = 0
    for index, cue in enumerate(cues):
        value = cue["value"]
        repeats = bool(values) and values[-1] == value
        standing = standing + 1 if repeats else 0
        values.append(value)
        rows.append([
            float(np.log1p(cue["position"])), float(repeats), float(standing),
            float(values.count(value)), float(len(set(values))), float(index),
        ])  # fmt: skip
    return rows
