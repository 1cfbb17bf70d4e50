"""`ctl frontier`: accuracy against all tokens, for one run, exits, votes and what makes votes cheaper."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from reasonctl.controller import ControllerError

from ..evaluation.frontier import ARITHMETIC, DRAFTED, EXIT, INDEPENDENT, Point, frontier, sizes_of
from ..evaluation.intervals import Interval
from ..runs.sampled import SampleSet
from .console import Console
from .options import Options
from .sampled import VOTE_UNIT, SamplingJob, open_job, points_cell, sampled, share_cell

PROBLEMS = 200
"""Default number of problems."""
DRAFT = "hierarchy"
"""The drafter where nobody asks for one; `--draft none` leaves the drafted run out."""


def show_frontier(name: str, options: Options, *, tasks: str, probe: str | None, samples: int, out: str) -> None:
    """Sample every problem in all ways, print the frontier and write its figure."""
    from ..pages.frontier import write_frontier  # reads matplotlib
    from ..pages.plotted import check_figure

    show = Console(as_json=options.json)
    check_figure(out)
    sizes_of(samples)
    confidence = vote_confidence(options)
    n = options.n or PROBLEMS
    if "draft" not in options.chosen:
        options = replace(options, draft=DRAFT)
    job = open_job(show, "ctl frontier", name, options, tasks=tasks, probe=probe, n=n, samples=samples, out=out)
    sets = sets_of(job, samples)
    each = sum(one.n for one in sets)
    show.say(f"{len(job.problems)} problems of {job.task.name}, {each} runs each; {job.recipe.policy}")
    if options.dry_run:
        show.result({"n": len(job.problems), "runs": each * len(job.problems), "dry_run": True})
        return
    problems = sampled(show, job, sets, options, out, name)
    points = frontier(problems, options.risk, confidence)
    show_points(show, points, len(problems))
    title = f"{name} on {job.task.name}"
    write_frontier(Path(out), title, points, len(problems))
    show.say(f"written: {out}")
    settings = {"model": name, "tasks": job.task.name, "policy": job.recipe.policy, "draft": job.recipe.draft}
    asked = {"n": len(problems), "samples": samples, "risk": options.risk, "confidence": confidence, **job.room}
    show.result(settings | asked | {"unit": "problem", "points": [point.to_json() for point in points]})


def vote_confidence(options: Options) -> float:
    """The confidence of a vote's promise.

    Raises:
        ControllerError: it is `marginal`, which a vote's promise isn't made for.
    """
    if options.confidence is None:
        raise ControllerError("--confidence is marginal, and a vote's promise needs a number, e.g. 0.9")
    return options.confidence


def sets_of(job: SamplingJob, n: int) -> list[SampleSet]:
    """What is drawn of each problem."""
    policy = job.recipe.policy
    sets = [SampleSet(INDEPENDENT, n, policy), SampleSet(ARITHMETIC, n, policy, "arithmetic")]
    if job.rule is not None:
        sets.append(SampleSet(EXIT, n, policy, rule=job.rule))
    if job.recipe.draft != "none":
        sets.append(SampleSet(DRAFTED, 1, policy, drafted=True))
    return sets


def show_points(show: Console, points: list[Point], problems: int) -> None:
    """A row for each way, then what voting gains."""
    drafted = next((one for one in points if one.rejected), None)
    show.title(f"accuracy against all tokens, {problems} problems, 95 % intervals over problems")
    rows = [
        [
            f"{one.way} ({one.samples})" if one.samples > 1 else one.way,
            share_cell(one.accuracy),
            f"{one.tokens.mean:.0f} ± {one.tokens.high - one.tokens.mean:.0f}",
            f"{one.drawn:.1f}",
            points_cell(one.gain),
        ]
        for one in points
    ]
    show.table(rows, "way (samples)", "% right", "tokens", "samples", "gain")
    show.say(voting_in_words(points), "bold")
    if drafted is not None:
        show.say(f"{drafted.way}: {drafted.rejected:.0f} rejected drafted tokens a problem, which no row counts")
    show.say(f"gain: points more than one run; {VOTE_UNIT}", "dim")
    show.say("the tokens of a vote that stops are those of its samples one after the other", "dim")


def voting_in_words(points: list[Point]) -> str:
    """Whether the largest vote beats one run, in one line."""
    largest = max((one for one in points if one.way == "vote"), key=lambda one: one.samples)
    gain: Interval = largest.gain
    range_ = f"{100 * gain.low:+z.1f} to {100 * gain.high:+z.1f} points"
    if gain.low > 0:
        return f"voting helps here: {100 * gain.mean:+z.1f} points with {largest.samples} samples ({range_})"
    if gain.high < 0:
        return f"voting hurts here: {100 * gain.mean:+z.1f} points with {largest.samples} samples ({range_})"
    return f"no gain of voting shows here: {range_} with {largest.samples} samples"
