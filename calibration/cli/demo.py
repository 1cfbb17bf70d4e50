"""`ctl demo`: the whole job on the bundled model, live: think, collect, fit, promise, measure."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from reasonctl.backends import Model
from reasonctl.controller import Controller
from reasonctl.probes import ProbeExit
from reasonctl.probes.risk import refutes

from ..evaluation.pairs import fresh
from ..fitting.collecting import plan_of
from ..fitting.job import CalibrationJob, calibrate_and_save
from ..pages.wording import bound_of, percent
from ..runs.records import RunRecord
from ..runs.splits import evaluation_stream
from ..tasks.sources import load_task
from .calibrate import calibration_json, collected
from .closing import ClosedJob
from .console import Console
from .evaluate import EVALUATION_RUNS, EvaluationJob, compare
from .forecast import describe
from .options import Options
from .recipes import new_recipe, open_model, rule_of
from .run import stream_run

DEMO_RUNS = 400
"""Runs that are collected: the first FITTING_RUNS fit the probe, the others calibrate it."""


def demo(options: Options) -> None:
    """Run the whole job. Everything that is printed is made now: nothing is read from a file."""
    show = Console(as_json=options.json)
    model = open_model("tiny", options)
    recipe = new_recipe("tiny", model, options)
    task = load_task("tiny")
    with tempfile.TemporaryDirectory(prefix="ctl-demo-") as folder:
        plan = CalibrationJob(recipe, task, options.promise, DEMO_RUNS, Path(folder) / "demo.probe.safetensors")
        show.title("1. A small model thinks, and goes on long after it has the answer")
        first = task.problems(1, stream=evaluation_stream(options.seed), prompt=model.prompt)[0].question
        before = stream_run(show, model, recipe, first, Controller())
        show.title("2. Collect runs, try an exit at every cue, fit a probe on hidden states, calibrate it")
        describe(show, plan, model, options)
        if options.dry_run:
            show.result({"n": plan.n, "dry_run": True})
            return
        rule, records = _calibrated(show, plan, model, options)
        show.title("3. The same problem, with the probe in charge")
        after = stream_run(show, model, recipe, first, Controller(exit=rule))
        show.say(f"{after.cost} tokens instead of {before.cost}. {after.why}", "bold")
        show.title("4. Promised and measured, on problems that neither fitting nor calibration saw")
        problems = fresh(
            task,
            rule.content,
            options.n or EVALUATION_RUNS,
            options.seed,
            options.domain,
            prompt=model.prompt,
            runs=records,
        )
        job = EvaluationJob(rule, model, recipe, task, problems, options)
        result = compare(show, job, runs=records, baselines=True)
    result["calibration"] = calibration_json(rule)
    _show_end(show, result)
    show.result(result)


def _calibrated(
    show: Console, plan: CalibrationJob, model: Model, options: Options
) -> tuple[ProbeExit, list[RunRecord]]:
    """Collect, fit and calibrate.

    Returns:
        The rule, and the runs that it was made from.
    """
    workers = options.machine("tiny")[0]
    unlimited = replace(options, time_limit=None)
    file = plan.run_file(model)
    file.temporary = True
    records = collected(show, ClosedJob(plan), file, unlimited, plan.asked(model).problems, workers)
    assert records is not None
    content = calibrate_and_save(plan, model, records, plan_of(plan, file), force=False)
    rule = rule_of(options, plan.out)
    rule.check(model)
    auc = float(str(content.card.report["auc"]))
    show.say(f"probe: {content.card.report['model']}, AUC {auc:.3f} on held-out problems; {rule.why}")
    return rule, records


def _show_end(show: Console, result: dict[str, Any]) -> None:
    """Print what was saved, whether the promise stands, and what the savings depend on."""
    failure = result["failure"]
    refuted = refutes(failure["count"], failure["n"], bound_of(result["guarantee"]))
    saved = 1 - result["controlled"]["tokens"] / result["baseline"]["tokens"]
    show.say(
        f"\n{percent(saved)} fewer tokens; the evaluation {'REFUTES' if refuted else 'does not refute'} the promise "
        f"(one-sided exact test at 1 %). {show.elapsed():.0f} s in all.",
        "bold",
    )
    show.say(
        "The savings are a property of this model's training text as much as of the probe: examples/tiny/README.md."
    )
