"""`ctl calibrate`: checks everything before any work, resumes what is there, collects, fits and reports."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from reasonctl.backends import Model
from reasonctl.controller import Closing, ControllerError, parse_efforts
from reasonctl.probes import ProbeExit, make_exit
from reasonctl.probes.files import ProbeFile, check_target, load_probe

from ..fitting.analyses import Analyses
from ..fitting.begun import as_begun
from ..fitting.choose_cues import AUTO, EVERYTHING
from ..fitting.collecting import collect_job, plan_of
from ..fitting.job import CalibrationJob, calibrate_and_save, made_by
from ..fitting.saved_runs import halves
from ..pages.wording import exits_where, stopping_of, truncation_of
from ..parallel.run_jobs import check_cluster
from ..runs.making import runs_at_once
from ..runs.records import RunRecord
from ..runs.room import Asked
from ..runs.run_file import RunFile
from ..runs.splits import report_path, runs_path
from ..runs.worker import check_recipe
from ..tasks.problem import Problem
from ..tasks.sources import Task
from .checks import check_domain, check_give_up, check_labels, check_until
from .closing import ClosedJob, closings_of, format_of, with_closing
from .console import Console
from .forecast import counted, describe, estimate, needed
from .from_log import task_of, with_log
from .ngrams import keep_ngrams, usage
from .options import Options
from .recipes import new_recipe, open_model

CALIBRATION_RUNS = 300
"""Default number of runs: the first FITTING_RUNS fit the probe, the others calibrate it."""


@dataclass(frozen=True)
class Targets:
    """The files that a job writes."""

    probe: Path
    """The probe file."""
    page: Path | None
    """The page about it. None: it isn't wanted."""
    ngrams: Path | None
    """The n-gram database. None: it isn't wanted."""
    again: bool
    """Whether an earlier call stopped after the probe and before the last file. The files that exist are kept then."""

    def wants(self, path: Path | None) -> bool:
        """Whether the page or the n-grams are still to be written."""
        return path is not None and not (self.again and path.exists())


def calibrate(
    name: str,
    options: Options,
    *,
    tasks: str | None,
    runs: tuple[str, ...],
    out: str,
    report: bool,
    ngrams: str | None,
    dask: str | None,
    answer_tokens: int | None,
    **overrides: Any,
) -> None:
    """Collect, fit and calibrate. Whatever can be refused is refused before any work."""
    show = Console(as_json=options.json)
    options = options.batched(runs_at_once(options.backend, logged=bool(runs)))
    workers = where(name, options, dask)
    targets = check_targets(Path(out), report, ngrams, options.force)
    task = task_of(tasks, runs, options)
    model = open_model(name, options)
    plan = _job(name, model, task, targets.probe, options, answer_tokens, overrides)
    plan, problems = asked(show, with_log(show, plan, model, format_of(model, overrides), runs, options), model)
    check_domain(options, problems)
    plan, model = begun(plan, model, options, overrides)
    check_recipe(plan.recipe, model, problems, workers)
    if options.dry_run:
        dry_run(show, plan, model, options, closings_of(plan, model, overrides, problems))
        return
    content = made_already(plan, model) if targets.again else None
    deadline = time.monotonic() + options.time_limit if options.time_limit else None
    chosen = with_closing(show, plan, model, overrides, problems, workers, force=options.force, deadline=deadline)
    if chosen is None:
        late(show, plan, "nothing is kept of the runs that tried --suffix: give a longer --time-limit, or a --suffix")
        return
    describe(show, chosen.plan, model, options)
    _made(show, chosen, model, options, problems, workers, targets, content, deadline)


def _made(
    show: Console,
    chosen: ClosedJob,
    model: Model,
    options: Options,
    problems: list[Problem],
    workers: int | str,
    targets: Targets,
    content: ProbeFile | None,
    deadline: float | None,
) -> None:
    """Collect, fit and calibrate, and write what is asked for; content and deadline as in `collected`."""
    plan = chosen.plan
    with closing(plan.run_file(model)) as file:
        records = collected(show, chosen, file, options, problems, workers, content, deadline)
        if records is None:
            return
        content = _fitted(plan, model, records, file, content, force=options.force)
    if targets.ngrams is not None and targets.wants(targets.ngrams):
        table = keep_ngrams(model, records, targets.ngrams, source=plan.task.name, force=options.force)
        show.say(usage(table, targets.ngrams, "model"))
    report_fit(show, plan, content, options, records if targets.wants(targets.page) else None)


def begun(
    plan: CalibrationJob, model: Model, options: Options, overrides: Mapping[str, Any]
) -> tuple[CalibrationJob, Model]:
    """The job as an earlier call of it began, in that call's batches if no --batch is given; and the model for them."""
    choosing = not (overrides["suffix"] or overrides["answer"])
    plan = as_begun(plan, model, choosing=choosing, batch_given="batch" in options.given)
    if plan.recipe.batch != options.batch:
        model = open_model(plan.recipe.model, replace(options, batch=plan.recipe.batch))
    return plan, model


def dry_run(show: Console, plan: CalibrationJob, model: Model, options: Options, closings: Sequence[Closing]) -> None:
    """Print what would be done. Nothing is tried: where there is a choice, the suffix is the one of the template."""
    describe(show, plan, model, options)
    if len(closings) > 1 and not plan.closings:
        show.say("without --suffix and --answer the suffix is chosen on the first fitting runs, and may be another one")
    show.result({"n": plan.n, "runs_needed": needed(options, plan), "recipe": vars(plan.recipe)})


def _job(
    name: str,
    model: Model,
    task: Task,
    out: Path,
    options: Options,
    answer_tokens: int | None,
    overrides: Mapping[str, Any],
) -> CalibrationJob:
    check_labels(options, overrides["labels"])
    check_give_up(options)
    choose = overrides["cues"] == AUTO
    recipe = new_recipe(
        name,
        model,
        options,
        opening=overrides["think_open"],
        closing=overrides["think_close"],
        suffix=overrides["suffix"],
        answer=overrides["answer"],
        cues=",".join(EVERYTHING) if choose else overrides["cues"],
        layers=overrides["layers"],
        answer_tokens=answer_tokens,
    )
    return CalibrationJob(
        replace(recipe, **{name: overrides[name] for name in ("always_answer", "later_spans", "form")}),
        task,
        options.promise,
        options.n or CALIBRATION_RUNS,
        out,
        fit=overrides["fit"],
        labels=overrides["labels"],
        choose_cues=choose,
        first_analysis=check_until(options) if overrides["until"] else None,
        efforts=efforts_of(overrides["efforts"], options.promise.risk),
    )


def efforts_of(given: str | None, risk: float) -> str:
    """What names for how much to think stand for, for the card: the user's text, or the risk, its double and its half.

    >>> efforts_of(None, 0.05)
    'low=risk(0.1), medium=risk(0.05), high=risk(0.025)'

    Raises:
        ControllerError: The user's text defines something impossible.
    """
    if given is None:
        risks = {"low": min(2 * risk, (1 + risk) / 2), "medium": risk, "high": risk / 2}
        return ", ".join(f"{name}=risk({value:g})" for name, value in risks.items())
    _ = given and parse_efforts(given)
    return given


def asked(show: Console, plan: CalibrationJob, model: Model) -> tuple[CalibrationJob, list[Problem]]:
    """Leave out the problems that are too long for the model, and name them.

    Returns:
        The job and its problems without them.
    """
    found = plan.asked(model)
    show_left_out(show, found, plan.task)
    return plan.of(found), found.problems


def show_left_out(show: Console, asked: Asked, task: Task) -> None:
    """Print which questions are left out, and how many runs end early, if any."""
    for message in asked.messages(task.where):
        show.say(message, "yellow")


def _fitted(
    plan: CalibrationJob,
    model: Model,
    records: list[RunRecord],
    file: RunFile,
    content: ProbeFile | None,
    *,
    force: bool,
) -> ProbeFile:
    """The probe file: the one that an interrupted job left (`content`), or a new one."""
    if content is not None:
        halves(content, records)
        return content
    calibrate_and_save(plan, model, records, plan_of(plan, file), force=force)
    return load_probe(plan.out)  # what is said and drawn is the file's, to the byte


def check_targets(out: Path, report: bool, ngrams: str | None, force: bool) -> Targets:
    """The files of the job.

    Raises:
        ControllerError: One of them can't be put where it is wanted.
    """
    page = report_path(out)
    if page == out:
        raise ControllerError(f"--out is {out}, a page's name; give the probe file one that ends in .safetensors")
    targets = [out, *([page] if report else [])]
    if ngrams is not None:
        if Path(ngrams).resolve() in {path.resolve() for path in (*targets, runs_path(out))}:
            raise ControllerError(f"--ngrams is {ngrams}, which the job itself writes; give another name")
        targets.append(Path(ngrams))
    missing = [target for target in targets if not target.exists()]
    again = not force and out.is_file() and runs_path(out).is_file() and bool(missing)
    for target in missing if again else targets:
        check_target(target, force)
    return Targets(out, page if report else None, None if ngrams is None else Path(ngrams), again)


def made_already(plan: CalibrationJob, model: Model) -> ProbeFile:
    """The probe that an earlier call of the same job wrote.

    Raises:
        ControllerError: The file is another job's.
    """
    content = load_probe(plan.out)
    if not made_by(plan, model, content.card):
        raise ControllerError(
            f"{plan.out} exists already, made with other settings; overwrite it with --force or give another name"
        )
    return content


def where(name: str, options: Options, dask: str | None) -> int | str:
    """The number of processes, or the cluster's address."""
    if dask is None:
        return options.machine(name)[0]
    if options.workers is not None:
        raise ControllerError("--dask and --workers were both given; a cluster brings its own workers")
    check_cluster(dask)
    return dask


def collected(
    show: Console,
    chosen: ClosedJob,
    file: RunFile,
    options: Options,
    problems: list[Problem],
    workers: int | str,
    content: ProbeFile | None = None,
    deadline: float | None = None,
) -> list[RunRecord] | None:
    """Collect the runs that the file lacks.

    A file may hold more runs than the plan wants: the first problems of a stream are always the same. content: the
    probe file that an interrupted job left. None: a job until its promise stands may end before its last run. deadline:
    the time, of `time.monotonic`, when collecting pauses. None: as late as --time-limit says, from now on.

    Returns:
        All records of the job. None: the time limit came first.
    """
    if deadline is None and options.time_limit:
        deadline = time.monotonic() + options.time_limit
    plan, done = chosen.plan, _opened(show, chosen, file, problems, force=options.force)
    if content is not None:
        plan = replace(plan, n=sum(content.card.runs.values()))
    stops = content is None and plan.first_analysis is not None
    analyses = Analyses(plan, file, partial(plan_of, plan, file), counted(show, plan, done))
    if done < plan.n and not (stops and analyses.enough(done)):
        estimate(show, chosen, problems[done], plan.n - done, workers)
        enough = analyses.enough if stops else None
        if not _collect(show, plan, file, problems, done, workers=workers, deadline=deadline, enough=enough):
            late(show, plan, f"{file.path.name} holds what was collected: run the same command again to go on")
            return None
    records = file.read()[: plan.n]
    if stops:
        analyses.enough(len(records))
        return records[: plan.fit + analyses.runs]
    return records


def _opened(show: Console, chosen: ClosedJob, file: RunFile, problems: list[Problem], *, force: bool) -> int:
    """Open a job's file of runs, and append those on which it chose just now; how many runs the file then holds."""
    done = file.open(force=force)
    if done:
        check_problems(file, problems)
        show.say(f"resuming: {done} of {chosen.plan.n} runs are in {file.path.name}")
    for record in chosen.first[done:]:
        file.append(record)
    return max(done, len(chosen.first))


def late(show: Console, plan: CalibrationJob, remedy: str) -> None:
    """Print that the time limit came first."""
    show.say(f"time limit reached; {remedy}")
    show.result({"n": plan.n, "complete": False})


def _collect(
    show: Console, plan: CalibrationJob, file: RunFile, problems: list[Problem], done: int, **how: Any
) -> bool:
    """Make the missing runs under a bar; False if the time limit came first. how: more arguments of `collect_job`."""
    with show.progress("collecting") as progress:
        return collect_job(
            plan,
            file,
            problems,
            done=done,
            progress=progress,
            warn=lambda text: show.say(f"warning: {text}", "yellow"),
            **how,
        )


def check_problems(file: RunFile, problems: list[Problem]) -> None:
    """Raise ControllerError if the collected runs are of other problems than the task gives now."""
    found = [record.problem for record in file.read()]
    if any(known != problem.id for known, problem in zip(found, problems, strict=False)):
        raise ControllerError(
            f"{str(file.path)!r} holds runs of other problems, so the task has changed since; move it away, or give "
            "another --out"
        )


def report_fit(
    show: Console, plan: CalibrationJob, content: ProbeFile, options: Options, records: list[RunRecord] | None
) -> None:
    """Print what was fitted and what it can promise; write the page if the records are given."""
    card, promise = content.card, options.promise
    rule, auc = make_exit(content, promise), float(str(card.report["auc"]))
    if plan.choose_cues:
        show.say(f"cues chosen on the fitting runs: {', '.join(card.cues)}")
    show.say(f"probe: {card.report['model']}, AUC {auc:.3f} on held-out problems ({card.report['cues']} cues)")
    if (message := truncation_of(card)) is not None:
        show.say(message, "yellow")
    show.say(rule.why, "bold")
    show.say(stopping_of(card))
    if rule.threshold.more_runs and promise.domain is None:
        made = sum(card.runs.values())
        enough = made + rule.threshold.more_runs
        show.say(f"to go on from here: the same command with -n {enough} --force; the {made} runs are kept")
    written = [plan.out]
    if records is not None:
        from ..pages.report import write_report  # matplotlib is read only where a page is wanted

        written.append(report_path(plan.out))
        write_report(written[-1], content, promise, records, None, force=options.force)
    show.say(f"written: {', '.join(map(str, written))}")
    show.result({"out": str(plan.out), "complete": True, "calibration": calibration_json(rule), "why": rule.why})


def calibration_json(rule: ProbeExit) -> dict[str, Any]:
    """Calibration runs, AUC and threshold, as JSON values.

    A threshold that isn't finite is None. `exits` says whether the rule then exits never or always.
    """
    value, content = rule.threshold.value, rule.content
    return {
        "n": content.signal_table("hidden", rule.promise.domain).table.runs,
        "auc": float(str(content.card.report["auc"])),
        "threshold": value if math.isfinite(value) else None,
        "exits": exits_where(value),
    }
