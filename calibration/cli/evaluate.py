"""The command behind `ctl eval`: a rule on problems that its probe never saw, beside no control and cheap rules."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from reasonctl.backends.model import Model
from reasonctl.probes.exit import ProbeExit
from reasonctl.probes.files.probe_file import digest_of

from ..evaluation.pairs import evaluate_pairs, fresh, summary
from ..fitting.job import sampler_of
from ..fitting.saved_runs import saved_runs
from ..runs.recipe import Recipe
from ..runs.records import RunRecord
from ..tasks.problem import Problem
from ..tasks.sources import Task, load_task
from .baselines import cheap_rules
from .console import Console, comparison
from .options import Options, promise_of
from .recipes import card_recipe, open_rule, probe_path

EVALUATION_RUNS = 400


def run(
    name: str, options: Options, *, tasks: str | None, probe: str | None, baselines: bool, report: str | None
) -> None:
    """Both arms on problems that neither fitting nor calibration saw; `report`: the page to write."""
    show = Console(as_json=options.json)
    if report is not None:
        from ..pages.report import check_page, write_report

        check_page(Path(report), probe_path(name, probe), options.force)
    rule, model = open_rule(show, name, options, probe)
    content = rule.content
    task = load_task(tasks or content.card.tasks, grader=options.grader, gold=options.mode != "disagree")
    recipe = card_recipe(name, content.card, options)
    runs = saved_runs(probe_path(name, probe), content)
    problems = fresh(task, content, options.n or EVALUATION_RUNS, options.seed, options.domain)
    show.say(f"{len(problems)} problems of {task.name} that the probe never saw; {rule.why}")
    if options.dry_run:
        show.result({"n": len(problems), "dry_run": True})
        return
    result = compare(show, recipe, problems, task, rule, model, options, runs=runs, baselines=baselines)
    show.result(result)
    if report is not None:
        write_report(Path(report), content, promise_of(options, result), runs, result, force=options.force)
        show.say(f"written: {report}")


def compare(
    show: Console,
    recipe: Recipe,
    problems: list[Problem],
    task: Task,
    rule: ProbeExit,
    model: Model,
    options: Options,
    *,
    runs: list[RunRecord] | None,
    baselines: bool,
) -> dict[str, Any]:
    """Run both arms, print the comparison and the cheap rules; the JSON of `ctl eval`."""
    workers = options.machine(recipe.model)[0]
    with show.progress("evaluating") as progress:
        pairs = evaluate_pairs(
            recipe, problems, task.grader, rule, workers=workers, cheap_rules=baselines, progress=progress
        )
    promise = rule.guarantee(
        sampler=sampler_of(recipe), max_new_tokens=recipe.max_new_tokens, tasks=task.name, grader=task.grader.name
    )
    if rule.promise.domain is not None:
        promise["domain"] = rule.promise.domain
    asked, graded = promise_of(options), all(problem.answer is not None for problem in problems)
    result = {
        "seed": options.seed,
        "model": recipe.model,
        "backend": model.backend,
        "tasks": task.name,
        **asdict(asked),
        "probe": digest_of(rule.content),
        **summary(pairs, options.mode, graded=graded),
        "guarantee": promise,
    }
    comparison(show, result)
    if baselines:
        records = [pair.record for pair in pairs if pair.record is not None]
        result["baselines"] = cheap_rules(show, rule, runs, records)
    return result
