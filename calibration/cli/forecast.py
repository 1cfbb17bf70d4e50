"""What a calibration job will take and can promise: said before the work, and corrected while it goes on."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from reasonctl.backends import Model
from reasonctl.controller.thinking import FORM_MEANS
from reasonctl.probes.risk import Stopping, planned, runs_needed

from ..fitting.analyses import SAVING_CONFIDENCE, Analysis, Saving
from ..fitting.collecting import fitting_trials
from ..fitting.job import CalibrationJob
from ..pages.wording import SHOWN_RISKS, ends_of, percent
from ..runs.making import windows_of
from ..runs.records import RunRecord
from ..runs.worker import collect_run, start_engine
from ..tasks.problem import Problem
from .closing import ClosedJob
from .console import Console
from .options import Options


def needed(options: Options, plan: CalibrationJob) -> int:
    """Fewest calibration runs that can promise anything."""
    if plan.first_analysis is not None and options.confidence is not None:
        return replace(plan, n=plan.fit + plan.first_analysis).stopping.fewest(options.risk, options.confidence)
    return runs_needed(options.mode, options.risk, options.confidence)


def describe(show: Console, plan: CalibrationJob, model: Model, options: Options) -> None:
    """Print, before any work, what will be done and what it can promise."""
    recipe, least = plan.recipe, needed(options, plan)
    marks = " ... ".join(recipe.markers) if recipe.markers else "none in the template: the whole completion is the span"
    show.say(f"model {plan.recipe.model} on {model.backend}: {model.depth} layers of width {model.width}")
    ends = ends_of(recipe.answer_ends)
    show.say(f"thinking markers {marks}; exit suffix {recipe.suffix!r}, {ends}; cues {', '.join(recipe.cues)}")
    show.say(f"exits of the form {recipe.form}: {FORM_MEANS[recipe.form]}")
    show.say(f"{plan.n} runs on {plan.task.name}, {recipe.policy}, at most {recipe.max_new_tokens} new tokens each")
    calibrating = plan.n - plan.fit
    design = "if their number is fixed" if plan.first_analysis is None else "wherever collecting stops"
    show.say(
        f"the first {plan.fit} fit, the other {calibrating} calibrate; {design}, a risk of {options.risk:g} needs at "
        f"least {least} of these (all without a failure), so -n {plan.fit + least} or more"
    )
    if plan.first_analysis is not None and options.confidence is not None:
        design_of = replace(plan, n=plan.fit + plan.first_analysis).stopping
        show.say(
            f"until promised: failures are counted at {_first_counts(plan)} calibration runs. Without a failure, "
            f"{_clean_runs(design_of, options.confidence)}"
        )
    elif options.confidence is not None and options.mode != "event":
        show.say(f"without a failure, {_clean_runs(Stopping('fixed', ()), options.confidence)}")
    if calibrating < least:
        show.say(f"too few: with -n {plan.n} the threshold will be +inf, that is: never exit", "yellow")


def _first_counts(plan: CalibrationJob) -> str:
    """The first analyses of a job, in words."""
    counts = planned(plan.first_analysis or 1, plan.n - plan.fit)
    return ", ".join(map(str, counts[:4])) + (" ..." if len(counts) > 4 else "")


def _clean_runs(stopping: Stopping, confidence: float) -> str:
    """Which risk so many calibration runs without a failure promise."""
    counts = [f"{stopping.fewest(risk, confidence)} promise {risk:g}" for risk in reversed(SHOWN_RISKS)]
    return f"{', '.join(counts)} at confidence {confidence:g}"


def estimate(show: Console, chosen: ClosedJob, problem: Problem, runs: int, workers: int | str) -> None:
    """Print how long the job will take, by the runs on which it chose; else by one that is made and not kept."""
    plan, batch = chosen.plan, chosen.plan.recipe.batch
    made, seconds = (chosen.first, chosen.seconds) if chosen.first else _timed(plan, problem)
    record, tried = made[-1], sum(cue.labelled for cue in made[-1].cues)
    processes = 1 if isinstance(workers, str) else workers
    minutes = seconds * min(processes, len(windows_of(made, batch))) / processes / 60
    fewest = minutes * min(batch, len(made)) / batch  # where a batch takes no longer than those that were timed
    done = plan.n - runs
    soonest = "" if plan.first_analysis is None else _soonest(plan.fit + plan.first_analysis - done, minutes)
    show.say(
        f"one run took {seconds:.1f} s with {tried} of {len(record.cues)} cues tried, so {soonest}{runs} runs take "
        f"roughly {minutes * runs:.1f} minutes"
        + (", divided by the cluster's workers" if isinstance(workers, str) else "")
        + (f", or as little as {fewest * runs:.1f} with {batch} at a time" if fewest < minutes else "")
    )


def _timed(plan: CalibrationJob, problem: Problem) -> tuple[Sequence[RunRecord], float]:
    """A run that isn't kept, and its seconds."""
    logged = None if plan.logged is None else plan.logged[problem.id]
    start_engine(plan.recipe)
    start = time.monotonic()
    record = collect_run(plan.recipe, 0, problem.question, fitting_trials(plan), logged)
    return (record,), time.monotonic() - start


def _soonest(runs: int, minutes: float) -> str:
    """When the first analysis comes, if so many runs of so many minutes each are missing for it."""
    return f"the first count comes after roughly {runs * minutes:.1f} minutes, and all " if runs > 0 else ""


def _too_little(saving: Saving) -> str:
    """Why a promise that stands is not enough yet."""
    if saving.share <= 0:
        return "it saves no tokens"
    return f"it saves {percent(saving.share)} of the tokens, which may be chance"


def counted(show: Console, plan: CalibrationJob, done: int) -> Callable[[Analysis], None]:
    """What says each analysis of a job that has `done` runs now, and when the next one comes, by the pace since now."""
    started = time.monotonic()

    def say(found: Analysis) -> None:
        runs, later = found.stopping.runs, plan.analysis_after(found.stopping.runs)
        text = f"counted at {runs} calibration runs: {found.threshold.why}"
        if found.is_enough:
            saves = f"it saves {percent(found.saving.share)} of the tokens"
            sure = f"more than {percent(found.saving.low)} with confidence {SAVING_CONFIDENCE}"
            show.say(f"{text}; {saves}, {sure}, so this is enough")
        elif plan.fit + later > plan.n:
            show.say(f"{text}; the next count would be at {later}, beyond -n {plan.n}")
        else:
            saves = "" if found.threshold.value == math.inf else f"; {_too_little(found.saving)}"
            new = plan.fit + runs - done
            minutes = (time.monotonic() - started) / 60 * (later - runs) / max(new, 1)
            when = f", in about {minutes:.1f} minutes" if new > 0 else ""
            show.say(f"{text}{saves}; the next count is at {later}{when}")

    return say
