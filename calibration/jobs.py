"""The commands behind `ctl calibrate`, `eval`, `run` and `inspect`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ..backends.load import load_drafter
from ..backends.model import Model
from ..controller import Call, Controller, ControllerError, Keys, Trace, parse_policy
from ..probes.exit import ProbeExit, load_exit
from ..probes.file import ProbeFile, check_target, load_probe
from ..probes.risk import choose_threshold, runs_needed
from .calibrate import Plan, calibration_stream, evaluation_stream, fit_and_save, runs_path, sampler_of
from .cheap import cheap_rules
from .collect import collect
from .evaluate import evaluate as evaluate_pairs
from .evaluate import summary
from .options import Options, card_recipe, new_recipe, open_model, probe_path
from .problem import Problem
from .runs import RunFile
from .show import Show, comparison
from .tasks import Task, load_task
from .worker import Recipe, collect_run

CALIBRATION_RUNS = 400


def calibrate(
    name: str, options: Options, *, tasks: str, out: str, answer_tokens: int, **overrides: str | None
) -> None:
    """Collect, fit, calibrate; everything that can be refused is refused first."""
    show = Show(as_json=options.json)
    plan_out = Path(out)
    check_target(plan_out, options.force)
    task = load_task(tasks, grader=options.grader, gold=options.mode != "disagree")
    model = open_model(name, options)
    recipe = new_recipe(
        name, model, options, opening=overrides["think_open"], closing=overrides["think_close"],
        suffix=overrides["suffix"], cues=overrides["cues"], layers=overrides["layers"],
        answer_tokens=answer_tokens,
    )  # fmt: skip
    plan = Plan(recipe, task, options.mode, options.n or CALIBRATION_RUNS, plan_out)
    problems = plan.problems()
    describe(show, plan, model, options)
    if options.dry_run:
        show.result({"n": plan.n, "runs_needed": needed(options), "recipe": vars(recipe)})
        return
    records = collected(show, plan, model, options, problems)
    if records is None:
        return
    content = fit_and_save(plan, model, records, force=options.force)
    report_fit(show, plan, content, options)


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
    show: Show, plan: Plan, model: Model, options: Options, problems: list[Problem]
) -> list[dict[str, Any]] | None:
    """All records, resumed where an earlier job left off; None if the time limit came first."""
    file = plan.run_file(model)
    started = time.monotonic()
    done = file.open(force=options.force)
    if done:
        show.say(f"resuming: {done} of {plan.n} runs are in {file.path.name}")
    if done < plan.n:
        estimate(show, plan, problems[done], plan.n - done, options)
        deadline = started + options.time_limit if options.time_limit else None
        workers = options.machine(plan.recipe.model)[0]
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
            )
        if not whole:
            show.say(
                f"time limit reached; {file.path.name} holds what was collected: run the same command again to go on"
            )
            show.result({"n": plan.n, "complete": False})
            return None
    return file.read()


def estimate(show: Show, plan: Plan, problem: Problem, runs: int, options: Options) -> None:
    """Time one run (it isn't kept) and say what the job will take."""
    start = time.monotonic()
    record = collect_run(plan.recipe, 0, problem.question)
    seconds = (time.monotonic() - start) * runs / options.machine(plan.recipe.model)[0]
    show.say(
        f"one run took {time.monotonic() - start:.1f} s with {len(record['cues'])} cues tried, so {runs} runs take "
        f"roughly {seconds / 60:.1f} minutes"
    )


def report_fit(show: Show, plan: Plan, content: ProbeFile, options: Options) -> None:
    """What was fitted, what it can promise, and the JSON."""
    card = content.card
    threshold = choose_threshold(content.table, content.grid, options.mode, options.risk, options.confidence)
    auc = float(str(card.report["auc"]))
    show.say(f"probe: {card.report['model']}, AUC {auc:.3f} on held-out problems ({card.report['cues']} cues)")
    show.say(threshold.why, "bold")
    show.say(f"written: {plan.out}")
    value = None if threshold.value == float("inf") else threshold.value
    show.result({
        "out": str(plan.out), "complete": True,
        "calibration": {"n": content.table.runs, "auc": auc, "threshold": value},
        "why": threshold.why,
    })  # fmt: skip


def evaluate(name: str, options: Options, *, tasks: str | None, probe: str | None, baselines: bool) -> None:
    """Both arms on problems that neither fitting nor calibration saw."""
    show = Show(as_json=options.json)
    path = probe_path(name, probe)
    content = load_probe(path)
    task = load_task(tasks or content.card.tasks, grader=options.grader)
    rule = load_exit(path, risk=options.risk, confidence=options.confidence, mode=options.mode)
    model = open_model(name, options)
    for warning in rule.check(model):
        show.say(f"warning: {warning}", "yellow")
    recipe = card_recipe(name, content.card, options)
    problems = fresh(task, content, options.n or 400, options.seed)
    show.say(f"{len(problems)} problems of {task.name} that the probe never saw; {rule.why}")
    if options.dry_run:
        show.result({"n": len(problems), "dry_run": True})
        return
    file = RunFile(runs_path(path), {})
    runs = file.read() if baselines and file.path.is_file() else None
    result = compare(
        show, recipe, problems, task, rule, model, options, content=content, runs=runs, baselines=baselines
    )
    show.result(result)


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


def run(name: str, prompt: str | None, options: Options, *, probe: str | None) -> None:
    """One streamed answer."""
    show = Show(as_json=options.json)
    rule = None
    model: Model
    if probe == "none":
        model = open_model(name, options)
        recipe = new_recipe(name, model, options)
    else:
        path = probe_path(name, probe)
        rule = load_exit(path, risk=options.risk, confidence=options.confidence, mode=options.mode)
        model = open_model(name, options)
        for warning in rule.check(model):
            show.say(f"warning: {warning}", "yellow")
        recipe = card_recipe(name, rule.card, options)
    question = prompt or _fresh_question(name, options)
    trace = stream_run(show, model, recipe, question, rule, options.seed)
    show.say(
        f"{len(trace.tokens)} tokens, {trace.forwards} forwards, "
        f"{trace.accepted} of {trace.drafted} drafted tokens accepted"
    )
    show.say(trace.why, "bold")
    text = model.tokenizer.decode([t for t in trace.tokens if t not in model.eos])
    show.result({**trace.to_dict(), "question": question, "text": text})


def stream_run(show: Show, model: Model, recipe: Recipe, question: str, rule: ProbeExit | None, seed: int) -> Trace:
    """Print a run as it comes: forced tokens stand out, cues' scores follow the answer."""
    controller = Controller(exit=rule, drafter=load_drafter(recipe.draft, threads=recipe.threads))
    prompt = model.prompt(question)
    keys = Keys(seed=seed)
    call = Call(prompt, recipe.max_new_tokens, model.eos, keys, parse_policy(recipe.policy))
    trace = Trace()
    session = model.engine.session()
    show.say(question, "cyan")
    for event in controller.stream(session, model.tokenizer, call, trace):
        if event.token not in model.eos:
            show.stream(model.tokenizer.text(event.token), "magenta" if event.source == "forced" else None)
    show.say()
    session.close()
    for decision in trace.decisions:
        show.say(f"  {decision}", "dim")
    return trace


def _fresh_question(name: str, options: Options) -> str:
    if name != "tiny":
        raise ControllerError("PROMPT is missing; give the question to answer")
    return load_task("tiny").problems(1, stream=evaluation_stream(options.seed))[0].question
