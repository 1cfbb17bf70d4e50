"""`ctl calibrate --heads`: collect runs, train AutoDeco's heads on the right ones, write the heads file."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path

from reasonctl.backends import Model
from reasonctl.probes import Promise
from reasonctl.probes.files import check_target

from ..fitting.heads import Training
from ..fitting.heads_job import OWN_DISTRIBUTION, FittedHeads, checkpoint_of, fit_heads, write_heads
from ..fitting.job import CalibrationJob
from ..runs.records import RunRecord
from ..runs.worker import check_recipe
from ..tasks.sources import load_task
from .calibrate import asked, collected, where
from .closing import ClosedJob
from .console import Console
from .options import Options
from .recipes import new_recipe, open_model

HEADS_RUNS = 400
"""Default number of runs."""


def calibrate_heads(
    name: str, options: Options, *, tasks: str, out: str, dask: str | None, weighted: bool = True
) -> None:
    """Collect runs, train the heads and write them. Whatever can be refused is refused before any work.

    weighted: see `Training`.
    """
    show = Console(as_json=options.json)
    target = Path(out)
    check_target(target, options.force)
    task = load_task(tasks, grader=options.grader)
    workers = where(name, options, dask)
    model = open_model(name, options)
    # Training needs right runs and no cues, so no exit is tried.
    recipe = replace(new_recipe(name, model, options), policy=options.policy_text(OWN_DISTRIBUTION), max_cues=0)
    plan = CalibrationJob(recipe, task, Promise(), options.n or HEADS_RUNS, target, fit=0, labels="all")
    training = Training(seed=options.seed, weighted=weighted)
    plan, problems = asked(show, plan, model)
    check_recipe(recipe, model, problems, workers)
    show.say(f"model {name} on {model.backend}: {model.depth} layers of width {model.width}")
    show.say(f"{plan.n} runs on {task.name}, {recipe.policy}; heads of {training.hidden} units on the right ones")
    if options.dry_run:
        show.result({"n": plan.n, "recipe": vars(recipe), "training": asdict(training)})
        return
    deadline = time.monotonic() + options.time_limit if options.time_limit else None
    with closing(plan.run_file(model)) as file:
        records = collected(show, ClosedJob(plan), file, options, problems, workers)
        if records is None:
            return
        fitted = _trained(show, plan, model, records, training, deadline)
        if fitted is None:
            return
        write_heads(plan, model, training, fitted, force=options.force)
    _show_report(show, fitted.report)
    show.say(f"written: {target}; use it with --policy 'autodeco({target})'")
    show.result({"out": str(target), "complete": True, "runs": fitted.counts, "report": fitted.report})


def _trained(
    show: Console,
    plan: CalibrationJob,
    model: Model,
    records: list[RunRecord],
    training: Training,
    deadline: float | None,
) -> FittedHeads | None:
    """Train the heads. None: the time limit came first."""
    with show.progress("training") as progress:
        fitted = fit_heads(plan, model, records, training, progress=progress, deadline=deadline)
    if fitted is None:
        kept = checkpoint_of(plan.out).name
        show.say(f"time limit reached; {kept} holds the state: run the same command again to go on")
        show.result({"n": plan.n, "complete": False})
    return fitted


def _show_report(show: Console, report: Mapping[str, float]) -> None:
    show.say(
        f"held-out runs, {report['tokens']} tokens: {report['nats_own']:.4f} nats a token under the model's own "
        "distribution, "
        f"{report['nats_tempered']:.4f} under the heads' temperatures; mean temperature {report['temperature']:.3f}, "
        f"top-p {report['top_p']:.3f}, {report['dropped']:.2%} of the tokens outside"
    )
