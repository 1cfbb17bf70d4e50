"""The commands behind `ctl calibrate`, `eval`, `run` and `inspect`."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from typing import Any

from ..backends.model import Model
from ..controller import ControllerError
from ..probes.exit import ProbeExit
from ..probes.file import ProbeFile
from ..probes.risk import choose_threshold, runs_needed
from ..probes.sealed import check_target
from .calibrate import Plan, calibration_stream, evaluation_stream, fit_and_save, report_path, runs_path, sampler_of
from .cheap import cheap_rules
from .collect import collect
from .cue_sets import AUTO, EVERYTHING
from .evaluate import evaluate as evaluate_pairs
from .evaluate import summary
from .make_ngrams import keep_ngrams
from .options import Options, card_recipe, new_recipe, open_model, probe_path
from .problem import Problem
from .recipe import Recipe
from .report_parts import Request
from .rules import open_rule
from .runs import RunFile
from .show import Show, comparison
from .spread import check_cluster
from .tasks import Task, load_task
from .worker import collect_run

CALIBRATION_RUNS = 400


def calibrate(
    name: str, options: Options, *, tasks: str, out: str, answer_tokens: int, report: bool, ngrams: str | None,
    **overrides: str | None,
) -> None:  # fmt: skip
    """Collect, fit, calibrate; everything that can be refused is refused first."""
    show = Show(as_json=options.json)
    plan_out = Path(out)
    workers = where(name, options, overrides["dask"])
    check_targets(plan_out, report, ngrams, options.force)
    task = load_task(tasks, grader=options.grader, gold=options.mode != "disagree")
    model = open_model(name, options)
    recipe = new_recipe(
        name, model, options, opening=overrides["think_open"], closing=overrides["think_close"],
        suffix=overrides["suffix"], cues=",".join(EVERYTHING) if overrides["cues"] == AUTO else overrides["cues"],
        layers=overrides["layers"],
        answer_tokens=answer_tokens,
    )  # fmt: skip
    plan = Plan(
        recipe, task, options.mode, options.n or CALIBRATION_RUNS, plan_out, options.risk, options.confidence,
        choose_cues=overrides["cues"] == AUTO,
    )  # fmt: skip
    problems = plan.problems()
    describe(show, plan, model, options)
    if options.dry_run:
        show.result({"n": plan.n, "runs_needed": needed(options), "recipe": vars(recipe)})
        return
    with closing(plan.run_file(model)) as file:
        records = collected(show, plan, file, options, problems, workers)
        if records is None:
            return
        content = fit_and_save(plan, model, records, force=options.force)
    if ngrams is not None:
        keep_ngrams(show, model, records, Path(ngrams), source=task.name, force=options.force)
    report_fit(show, plan, content, options, records if report else None)


def check_targets(out: Path, report: bool, ngrams: str | None, force: bool) -> None:
    """Raises ControllerError if a file of the job can't be put where it is wanted."""
    targets = [out, *([report_path(out)] if report else [])]
    if ngrams is not None:
        if Path(ngrams).resolve() in {path.resolve() for path in (*targets, runs_path(out))}:
            raise ControllerError(f"--ngrams is {ngrams}, which the job itself writes; give another name")
        targets.append(Path(ngrams))
    for target in targets:
        check_target(target, force)


def where(name: str, options: Options, dask: str | None) -> int | str:
    """The number of processes, or the cluster's address."""
    if dask is None:
        return options.machine(name)[0]
    if options.workers is not None:
        raise ControllerError("--dask and --workers were both given; a cluster brings its own workers")
    check_cluster(dask)
    return dask


def needed(options: Options) -> int:
    """Fewest calibration runs, half of -n, that can promise anything."""
    return runs_needed(options.mode, options.risk, options.confidence)


def describe(show: Show, plan: Plan, model: Model, options: Options) -> None:
    """Before any work: what will be done, what it can promise, where it goes."""
    recipe, least = plan.recipe, needed(options)
    marks = " ... ".join(recipe.markers) if recipe.markers else "none in the template: the whole completion is the span"
    show.say(f"model {plan.recipe.model} on {model.backend}: {model.depth} layers of width {model.width}")
    show.say(f"thinking markers {marks}; exit suffix {recipe.suffix!r}; cues {', '.join(recipe.cues)}")
    show.say(f"{plan.n} runs on {plan.task.name}, {recipe.policy}, at most {recipe.max_new_tokens} new tokens each")
    show.say(
        f"half of them calibrate: {plan.n - plan.n // 2}; a risk of {options.risk:g} needs at least {least} "
        f"(all without a failure), so -n {2 * least} or more"
    )
    if plan.n - plan.n // 2 < least:
        show.say(f"too few: with -n {plan.n} the threshold will be +inf, that is: never exit", "yellow")


def collected(
    show: Show, plan: Plan, file: RunFile, options: Options, problems: list[Problem], workers: int | str
) -> list[dict[str, Any]] | None:
    """All records, resumed where an earlier job left off; None if the time limit came first."""
    started = time.monotonic()
    done = file.open(force=options.force)
    if done:
        show.say(f"resuming: {done} of {plan.n} runs are in {file.path.name}")
    if done < plan.n:
        estimate(show, plan, problems[done], plan.n - done, workers)
        deadline = started + options.time_limit if options.time_limit else None
        with show.progress("collecting") as progress:
            whole = collect(
                plan.recipe,
                problems,
                plan.task.grader,
                file,
                done=done,
                workers=workers,
                progress=progress,
                deadline=deadline,
                warn=lambda text: show.say(f"warning: {text}", "yellow"),
            )
        if not whole:
            show.say(
                f"time limit reached; {file.path.name} holds what was collected: run the same command again to go on"
            )
            show.result({"n": plan.n, "complete": False})
            return None
    return file.read()


def estimate(show: Show, plan: Plan, problem: Problem, runs: int, workers: int | str) -> None:
    """Time one run (it isn't kept) and say what the job will take."""
    start = time.monotonic()
    record = collect_run(plan.recipe, 0, problem.question)
    seconds = time.monotonic() - start
    processes = 1 if isinstance(workers, str) else workers
    show.say(
        f"one run took {seconds:.1f} s with {len(record['cues'])} cues tried, so {runs} runs take "
        f"roughly {seconds * runs / processes / 60:.1f} minutes"
        + (", divided by the cluster's workers" if isinstance(workers, str) else "")
    )


def report_fit(
    show: Show, plan: Plan, content: ProbeFile, options: Options, records: list[dict[str, Any]] | None
) -> None:
    """What was fitted, what it can promise, the page with it if the records are given, and the JSON."""
    card = content.card
    threshold = choose_threshold(content.table, content.grid, options.mode, options.risk, options.confidence)
    auc = float(str(card.report["auc"]))
    if plan.choose_cues:
        show.say(f"cues chosen on the fitting runs: {', '.join(card.cues)}")
    show.say(f"probe: {card.report['model']}, AUC {auc:.3f} on held-out problems ({card.report['cues']} cues)")
    show.say(threshold.why, "bold")
    written = [plan.out]
    if records is not None:
        from .report import write_report  # matplotlib is read only where a page is wanted

        written.append(report_path(plan.out))
        asked = Request(options.mode, options.risk, options.confidence, "hidden")
        write_report(written[-1], content, asked, records, None, force=options.force)
    show.say(f"written: {', '.join(map(str, written))}")
    value = None if threshold.value == float("inf") else threshold.value
    show.result({
        "out": str(plan.out), "complete": True,
        "calibration": {"n": content.table.runs, "auc": auc, "threshold": value},
        "why": threshold.why,
    })  # fmt: skip


def evaluate(
    name: str, options: Options, *, tasks: str | None, probe: str | None, baselines: bool, report: str | None
) -> None:
    """Both arms on problems that neither fitting nor calibration saw; `report`: the page to write."""
    show = Show(as_json=options.json)
    if report is not None:
        check_target(report, options.force)
    rule, model = open_rule(show, name, options, probe)
    content = rule.content
    task = load_task(tasks or content.card.tasks, grader=options.grader)
    recipe = card_recipe(name, content.card, options)
    problems = fresh(task, content, options.n or 400, options.seed)
    show.say(f"{len(problems)} problems of {task.name} that the probe never saw; {rule.why}")
    if options.dry_run:
        show.result({"n": len(problems), "dry_run": True})
        return
    file = RunFile(runs_path(probe_path(name, probe)), {})
    runs = file.read() if file.path.is_file() else None
    result = compare(
        show, recipe, problems, task, rule, model, options, content=content, runs=runs, baselines=baselines
    )
    show.result(result)
    if report is not None:
        from .report import write_report

        write_report(Path(report), content, Request.of(options, result), runs, result, force=options.force)
        show.say(f"written: {report}")


def fresh(task: Task, content: ProbeFile, n: int, seed: int) -> list[Problem]:
    """Problems that are in neither split of the probe."""
    card = content.card
    seen = set(content.table.problem.tolist())
    if card.tasks == task.name:
        drawn = task.problems(sum(card.runs.values()), stream=calibration_stream(card.seeds["seed"]))
        seen |= {problem.id for problem in drawn}
    return task.problems(n, stream=evaluation_stream(seed), exclude=seen)


def compare(
    show: Show, recipe: Recipe, problems: list[Problem], task: Task, rule: ProbeExit, model: Model, options: Options, *,
    content: ProbeFile, runs: list[dict[str, Any]] | None, baselines: bool,
) -> dict[str, Any]:  # fmt: skip
    """Run both arms, print the comparison and the cheap rules; the JSON of `ctl eval`."""
    workers = options.machine(recipe.model)[0]
    with show.progress("evaluating") as progress:
        pairs = evaluate_pairs(
            recipe, problems, task.grader, rule, workers=workers, cheap_rules=baselines, progress=progress
        )
    promise = rule.guarantee(
        sampler=sampler_of(recipe), max_new_tokens=recipe.max_new_tokens, tasks=task.name, grader=task.grader.name
    )
    result = {
        "seed": options.seed, "model": recipe.model, "backend": model.backend, "tasks": task.name, "mode": options.mode,
        "risk": options.risk, "confidence": options.confidence, **summary(pairs), "guarantee": promise,
    }  # fmt: skip
    comparison(show, result)
    if baselines:
        records = [pair.record for pair in pairs if pair.record is not None]
        result["baselines"] = cheap_rules(show, content, runs, records, options)
    return result
