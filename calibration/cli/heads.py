"""`ctl calibrate --heads`: collect runs, train AutoDeco's heads on the right ones, write the heads file."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from reasonctl.backends.model import Model
from reasonctl.controller import ControllerError
from reasonctl.probes.files.card import origin_of
from reasonctl.probes.files.heads_file import Heads, HeadsCard, HeadsFile, save_heads
from reasonctl.probes.files.sealed import check_target
from reasonctl.probes.promise import Promise

from ..fitting.heads import Training, evaluate_heads, train
from ..fitting.job import CalibrationJob
from ..runs.collect import identity_of
from ..runs.records import RunRecord
from ..runs.teacher_forced import Written
from ..tasks.sources import load_task
from .calibrate import CALIBRATION_RUNS, collected, where
from .console import Console
from .options import Options
from .recipes import new_recipe, open_model

HELD_OUT = 10
"""Every tenth right run is kept from training, to report on."""
FEWEST = 20
"""Right runs that are needed."""
OWN_LAW = "temperature(1)"
"""Default policy of the collected runs: any other would be learned as if the right runs had chosen it."""


def run(name: str, options: Options, *, tasks: str, out: str, dask: str | None, weighted: bool = True) -> None:
    """Collect, train, write; everything that can be refused is refused first. weighted: see `Training`."""
    show = Console(as_json=options.json)
    target = Path(out)
    check_target(target, options.force)
    task = load_task(tasks, grader=options.grader)
    workers = where(name, options, dask)
    model = open_model(name, options)
    # No cue is looked at: right runs are all that is needed.
    recipe = replace(new_recipe(name, model, options), policy=options.policy_text(OWN_LAW), max_cues=0)
    plan = CalibrationJob(recipe, task, Promise(), options.n or CALIBRATION_RUNS, target)
    training = Training(seed=options.seed, weighted=weighted)
    problems = plan.problems()
    show.say(f"model {name} on {model.backend}: {model.depth} layers of width {model.width}")
    show.say(f"{plan.n} runs on {task.name}, {recipe.policy}; heads of {training.hidden} units on the right ones")
    if options.dry_run:
        show.result({"n": plan.n, "recipe": vars(recipe), "training": asdict(training)})
        return
    deadline = time.monotonic() + options.time_limit if options.time_limit else None
    with closing(plan.run_file(model)) as file:
        records = collected(show, plan, file, options, problems, workers)
        if records is None:
            return
        runs = right_runs(model, records)
        learn = [run for i, run in enumerate(runs) if i % HELD_OUT]
        heads = _trained(show, model, learn, training, plan, deadline)
        if heads is None:
            return
        report = evaluate_heads(heads, model, runs[::HELD_OUT])
        counts = {"collected": len(records), "right": len(runs), "trained": len(learn)}
        save_heads(target, HeadsFile(heads, _card(plan, model, training, counts, report)), force=options.force)
        checkpoint_of(target).unlink(missing_ok=True)
    show.say(
        f"held-out runs, {report['tokens']} tokens: {report['nats_own']:.4f} nats a token under the model's own law, "
        f"{report['nats_tempered']:.4f} under the heads' temperatures; mean temperature {report['temperature']:.3f}, "
        f"top-p {report['top_p']:.3f}, {report['dropped']:.2%} of the tokens outside"
    )
    show.say(f"written: {target}; use it with --policy 'autodeco({target})'")
    show.result({"out": str(target), "complete": True, "runs": counts, "report": report})


def _trained(
    show: Console, model: Model, runs: list[Written], training: Training, plan: CalibrationJob, deadline: float | None
) -> Heads | None:
    """The heads; None if the time limit came first."""
    checkpoint = checkpoint_of(plan.out)
    if plan.recipe.threads is not None:
        torch.set_num_threads(plan.recipe.threads)
    with show.progress("training") as progress:
        heads = train(
            model, runs, training, checkpoint, identity=identity_of(model), progress=progress, deadline=deadline
        )
    if heads is None:
        show.say(f"time limit reached; {checkpoint.name} holds the state: run the same command again to go on")
        show.result({"n": plan.n, "complete": False})
        return None
    return heads


def checkpoint_of(out: Path) -> Path:
    """Where a training's state is kept until its heads are written: beside them."""
    return out.with_name(out.name + ".training")


def right_runs(model: Model, records: list[RunRecord]) -> list[Written]:
    """The right ones of collected runs as tokens, ended by the end of sequence where the run did.

    The text is encoded anew, so that a run sampled in an unusual tokenisation is learned in the usual one. Raises
    ControllerError for fewer than FEWEST.
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


def _card(
    plan: CalibrationJob, model: Model, training: Training, counts: dict[str, int], report: dict[str, Any]
) -> HeadsCard:
    recipe = plan.recipe
    return HeadsCard(
        **origin_of(model),
        sampler={"policy": recipe.policy, "max_new_tokens": recipe.max_new_tokens},
        tasks=plan.task.name,
        grader=plan.task.grader.name,
        seeds={"seed": recipe.seed},
        runs=counts,
        training=asdict(training),
        versions={name: version(name) for name in ("reasonctl", "torch", "numpy")},
        report=report,
    )
