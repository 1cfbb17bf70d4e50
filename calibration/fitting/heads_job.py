"""From collected runs to a heads file: the right runs as tokens, training, and the card."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import torch

from reasonctl.backends import Model
from reasonctl.controller import ControllerError
from reasonctl.probes.files import Heads, HeadsCard, HeadsFile, origin_of, save_heads

from ..runs.collect import identity_of
from ..runs.records import RunRecord
from ..runs.teacher_forced import Written
from .heads import Measures, Training, evaluate_heads, train
from .job import CalibrationJob

HELD_OUT = 10
"""Every tenth right run is held out of training, to report on."""
FEWEST = 20
"""Right runs that are needed."""
OWN_DISTRIBUTION = "temperature(1)"
"""Default policy of the collected runs: any other would be learned as if the right runs had chosen it."""


@dataclass(frozen=True)
class FittedHeads:
    """Trained heads and what their card says of them."""

    heads: Heads
    """The heads."""
    counts: dict[str, int]
    """Runs that were collected, that were right, and that trained."""
    report: Measures
    """The held-out runs' likelihoods."""


def fit_heads(
    job: CalibrationJob,
    model: Model,
    records: list[RunRecord],
    training: Training,
    *,
    progress: Callable[[int, int], None],
    deadline: float | None,
) -> FittedHeads | None:
    """Train on the right runs, and evaluate on the held-out ones.

    Args:
        job: The collected job; its output names the checkpoint.
        model: The model that wrote the runs.
        records: The collected runs.
        training: Its settings.
        progress: Called with the steps done and all steps.
        deadline: A time of `time.monotonic()`; the checkpoint holds what was done by then.

    Returns:
        None if the deadline came first.

    Raises:
        ControllerError: Too few runs are right.
    """
    runs = right_runs(model, records)
    learn = [run for i, run in enumerate(runs) if i % HELD_OUT]
    if job.recipe.threads is not None:
        torch.set_num_threads(job.recipe.threads)
    checkpoint, identity = checkpoint_of(job.out), identity_of(model)
    heads = train(model, learn, training, checkpoint, identity=identity, progress=progress, deadline=deadline)
    if heads is None:
        return None
    counts = {"collected": len(records), "right": len(runs), "trained": len(learn), **job.room}
    return FittedHeads(heads, counts, evaluate_heads(heads, model, runs[::HELD_OUT]))


def write_heads(job: CalibrationJob, model: Model, training: Training, fitted: FittedHeads, *, force: bool) -> None:
    """Write the heads file; then the checkpoint isn't needed any more."""
    save_heads(job.out, HeadsFile(fitted.heads, _card(job, model, training, fitted)), force=force)
    checkpoint_of(job.out).unlink(missing_ok=True)


def checkpoint_of(out: Path) -> Path:
    """Where a training's state is saved until its heads are written: next to them."""
    return out.with_name(out.name + ".training")


def right_runs(model: Model, records: list[RunRecord]) -> list[Written]:
    """The right ones of collected runs as tokens, ended by the end of sequence where the run did.

    The text is encoded anew, so that a run sampled in an unusual tokenisation is learned in the usual one.

    Raises:
        ControllerError: Fewer than FEWEST are right.
    """
    runs = []
    for record in records:
        if record.right:
            prompt = model.prompt(record.question)
            ended = record.finish == "stop" and model.eos
            end = [min(model.eos)] if ended else []
            runs.append(Written([*prompt, *model.tokenizer.encode(record.text), *end], len(prompt)))
    if len(runs) < FEWEST:
        raise ControllerError(
            f"{len(runs)} of {len(records)} runs are right; heads need at least {FEWEST}: give a larger -n, or an "
            "easier task"
        )
    return runs


def _card(job: CalibrationJob, model: Model, training: Training, fitted: FittedHeads) -> HeadsCard:
    recipe = job.recipe
    return HeadsCard(
        **origin_of(model),
        sampler={"policy": recipe.policy, "max_new_tokens": recipe.max_new_tokens},
        tasks=job.task.name,
        grader=job.task.grader.name,
        seeds={"seed": recipe.seed},
        runs=fitted.counts,
        training=asdict(training),
        versions={name: version(name) for name in ("reasonctl", "torch", "numpy")},
        report={**fitted.report},
    )
