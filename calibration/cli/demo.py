"""`ctl demo`: the whole job on the bundled model, live: think, collect, fit, promise, measure."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from reasonctl.controller import Controller
from reasonctl.probes.risk.bounds import refutes

from ..evaluation.pairs import fresh
from ..fitting.job import CalibrationJob, fit_and_save
from ..pages.wording import bound_of, percent
from ..runs.splits import evaluation_stream
from ..tasks.sources import load_task
from .calibrate import calibration_json, collected, describe
from .console import Console
from .evaluate import EVALUATION_RUNS, compare
from .options import Options, promise_of
from .recipes import new_recipe, open_model, rule_of
from .run import stream_run

CALIBRATION_RUNS = 600


def run(options: Options) -> None:
    """From nothing to promised and measured; nothing stored is shown."""
    show = Console(as_json=options.json)
    model = open_model("tiny", options)
    recipe = new_recipe("tiny", model, options)
    task = load_task("tiny")
    with tempfile.TemporaryDirectory(prefix="ctl-demo-") as folder:
        plan = CalibrationJob(
            recipe, task, promise_of(options), CALIBRATION_RUNS, Path(folder) / "demo.probe.safetensors"
        )
        show.title("1. A small model thinks, and goes on long after it has the answer")
        first = task.problems(1, stream=evaluation_stream(options.seed))[0].question
        before = stream_run(show, model, recipe, first, Controller())
        show.title("2. Collect runs, try an exit at every cue, fit a probe on hidden states, calibrate it")
        describe(show, plan, model, options)
        if options.dry_run:
            show.result({"n": plan.n, "dry_run": True})
            return
        records = collected(
            show,
            plan,
            plan.run_file(model),
            replace(options, time_limit=None),
            plan.problems(),
            options.machine("tiny")[0],
        )
        assert records is not None
        content = fit_and_save(plan, model, records, force=False)
        rule = rule_of(options, plan.out)
        rule.check(model)
        auc = float(str(content.card.report["auc"]))
        show.say(f"probe: {content.card.report['model']}, AUC {auc:.3f} on held-out problems; {rule.why}")
        show.title("3. The same problem, with the probe in charge")
        after = stream_run(show, model, recipe, first, Controller(exit=rule))
        show.say(f"{after.cost} tokens instead of {before.cost}. {after.why}", "bold")
        show.title("4. Promised and measured, on problems that neither fitting nor calibration saw")
        problems = fresh(task, content, options.n or EVALUATION_RUNS, options.seed, options.domain)
        result = compare(show, recipe, problems, task, rule, model, options, runs=records, baselines=True)
    result["calibration"] = calibration_json(rule)
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
    show.result(result)
