"""`ctl stability`: whether answers survive what shouldn't change them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reasonctl.controller import ControllerError

from ...diagnostics.stability import CLEAN, FLOOR, Condition, Grid, Perturbation, Row, check_options, rows
from ...pages.wording import percent
from ..console import Console
from ..options import Options
from ..refusal import given, refuse
from ..sampled import AT_ONCE, SamplingJob, open_job
from .diagnosed import answered, short
from .stability_audio import SoundJob

PROBLEMS = 100
"""Problems where nobody asks for a number."""
LENGTHS = {"options": "1", "audio": "5"}
"""Default lengths of perturbations that have others than `1,4,16`."""
SOUNDS = "silence,noise:-40"
"""Sounds where nobody names any: those of the paper that need no file."""
UNITS = {
    "audio": "seconds",
    "text": "sentences; strength: share of them with numbers",
    "whitespace": "spaces; strength: share of gaps",
}
"""What length and strength count."""
HEAD = ("condition", "% right", "influence, %", "+", "-", "flips, %", "p", "p, seed", "cut, %", "tokens")
NOTE = (
    "+: wrong, then right; -: right, then wrong; flips: another answer; p: exact McNemar, after Holm; p, seed: more "
    "grades change than with another seed; cut: runs that --max-new-tokens ended"
)
UNUSED = {
    **dict.fromkeys(("seed", "temperature", "exit"), ("lengths", "strengths")),
    **dict.fromkeys(("options", "audio"), ("strengths",)),
}
"""Options that mean nothing to a perturbation."""
MUCH = 0.05
"""Share of cut or unread answers above which the words say so."""


def stability(
    name: str, options: Options, *, tasks: str, perturb: Perturbation, probe: str | None, out: str, **sizes: Any
) -> None:
    """Ask every problem under every condition, print what changes, and write the page. sizes: those of the grid."""
    from ...pages.diagnostic import check_out  # reads jinja2

    show = Console(as_json=options.json)
    refuse(f"--perturb {perturb}", given(), dict.fromkeys(UNUSED.get(perturb, ()), ""))
    grid = grid_of(perturb, **sizes)
    if perturb != "exit" and probe is not None:
        raise ControllerError(f"--probe is for --perturb exit, not {perturb}; leave it off")
    check_out(out, options.force)
    job: SamplingJob | SoundJob
    if perturb == "audio":
        job = SoundJob(show, name, options, tasks, options.n or PROBLEMS, grid, out)
    else:
        job = _open(show, name, options, tasks, probe if perturb == "exit" else "none", out)
        if perturb == "exit" and job.rule is None:
            raise ControllerError("--perturb exit needs an exit rule; give --probe FILE")
    if perturb == "options":
        check_options(job.problems, grid.lengths)
    asks = [grid.asks(problem, i) for i, problem in enumerate(job.problems)]
    show.say(f"{len(asks)} problems of {job.task.name}, {len(asks[0])} runs each")
    if options.dry_run:
        show.result({"n": len(asks), "runs": sum(map(len, asks)), "dry_run": True})
        return
    shared = {"diagnostic": "stability", "grid": vars(grid)}
    if isinstance(job, SoundJob):
        answers = job.answered(asks, **shared)
    else:
        answers = answered(show, job, asks, options, out, **shared)
    found = rows(grid, job.problems, answers, job.task.grader)
    title = f"{short(name)} on {job.task.name} ({len(asks)} problems): {perturb}"
    show_rows(show, title, found)
    write(Path(out), title, grid, found)
    show.say(f"written: {out}")
    settings = {"model": name, "tasks": job.task.name, "seed": options.seed, "n": len(asks)}
    show.result(settings | vars(grid) | {"rows": [row.to_json() for row in found]})


def _open(show: Console, name: str, options: Options, tasks: str, rule: str | None, out: str) -> SamplingJob:
    """The job of a model of text."""
    asked: dict[str, Any] = {"tasks": tasks, "probe": rule, "n": options.n or PROBLEMS, "samples": AT_ONCE}
    return open_job(show, "ctl stability", name, options, out=out, votes=False, **asked)


def grid_of(
    perturb: Perturbation, lengths: str | None, strengths: str, temperatures: str, votes: int, sounds: str | None = None
) -> Grid:
    """The grid that the command line asks for; ControllerError where it means nothing."""
    named_sounds = SOUNDS if sounds is None and perturb == "audio" else sounds
    sizes = numbers("--lengths", lengths or LENGTHS.get(perturb, "1,4,16"), whole=True)
    return Grid(
        perturb,
        tuple(int(one) for one in sizes),
        tuple(numbers("--strengths", strengths)),
        tuple(numbers("--temperatures", temperatures)),
        votes,
        tuple(one.strip() for one in named_sounds.split(",")) if named_sounds else (),
    )


def numbers(option: str, text: str, *, whole: bool = False) -> list[float]:
    """Numbers that are separated by commas.

    Raises:
        ControllerError: One of them is no number.
    """
    try:
        return [int(part) if whole else float(part) for part in text.split(",")]
    except ValueError:
        kind = "whole numbers" if whole else "numbers"
        raise ControllerError(f"{option} is {text!r}; give {kind}, separated by commas") from None


def named(one: Condition, votes: int = 1) -> str:
    """A condition in words."""
    if one.sound:
        return f"{one.sound} {one.length} s, T {one.temperature:g}" + (f", vote of {votes}" if votes > 1 else "")
    size = f" {one.length}" + (f" x {one.strength:g}" if one.strength else "") if one.length else ""
    kind = {FLOOR: "another seed, ", CLEAN: ""}.get(one.perturb, f"{one.perturb}{size}, ")
    return f"{kind}T {one.temperature:g}" + (f", vote of {votes}" if votes > 1 else "")


def cells(row: Row) -> list[str]:
    """A row of the table."""
    c = row.compared
    return [
        named(row.condition, row.votes),
        f"{100 * c.clean_accuracy.rate:.0f} to {100 * c.accuracy.rate:.0f}",
        f"{100 * c.influence.rate:.0f} ({100 * c.influence.low:.0f}-{100 * c.influence.high:.0f})",
        str(c.gained),
        str(c.lost),
        f"{100 * c.flips.rate:.0f}",
        f"{row.adjusted:.2g}",
        "" if row.above_floor is None else f"{row.above_floor:.2g}",
        f"{100 * row.truncated:.0f}",
        f"{row.clean_tokens:.0f} to {row.tokens:.0f}",
    ]


def in_words(found: Sequence[Row]) -> list[str]:
    """What the rows say: the strongest influence next to the noise floor, the tests, and what they can't see."""
    single = [row for row in found if row.votes == 1]
    changed = [row for row in single if row.condition.perturb != FLOOR] or single
    worst = max(changed, key=lambda row: row.compared.influence.rate)
    rate = percent(worst.compared.influence.rate)
    first = f"Largest influence rate: {rate} of problems change their grade ({named(worst.condition)})."
    flipped = max(changed, key=lambda row: row.compared.flips.rate)
    rate = percent(flipped.compared.flips.rate)
    flips = f"Largest share of answers that change, right or wrong: {rate} ({named(flipped.condition)})."
    differ = sum(row.adjusted < 0.05 for row in found)
    second = f"Accuracy differs in {differ} of {len(found)} comparisons (exact McNemar tests, Holm-adjusted p < 0.05)."
    return [first + _floor_in_words(worst, single), flips, second, *_votes_in_words(found), *_hidden_in_words(found)]


def _floor_in_words(worst: Row, single: Sequence[Row]) -> str:
    """What another seed changes, next to the largest influence, if it is a measure for it."""
    floor = [row for row in single if row.condition == Condition(FLOOR, worst.condition.temperature)]
    if worst.above_floor is None or not floor:
        return ""
    rate = percent(floor[0].compared.influence.rate)
    return f" Another seed alone changes {rate}; that the perturbation changes more has p = {worst.above_floor:.2g}."


def _votes_in_words(found: Sequence[Row]) -> list[str]:
    """Single runs and votes, where a vote can act: at a temperature above 0, and not of the noise floor."""
    k = max(row.votes for row in found)
    able = [row for row in found if row.condition.temperature > 0 and row.condition.perturb != FLOOR]
    if k == 1 or not able:
        return []
    one, many = ([row for row in able if row.votes == votes] for votes in (1, k))
    a, b = (sum(row.compared.influence.rate for row in some) / len(some) for some in (one, many))
    right = [sum(row.compared.accuracy.rate for row in some) / len(some) for some in (one, many)]
    return [
        f"Self-consistency above temperature 0: mean influence rate {percent(a)} for one run, {percent(b)} for a vote "
        f"of {k}; right {percent(right[0])} and {percent(right[1])}. This is not tested."
    ]


def _hidden_in_words(found: Sequence[Row]) -> list[str]:
    """What makes the comparison blind: answers that were cut, or that state nothing."""
    cut, unread = max(row.truncated for row in found), max(row.unread for row in found)
    said = []
    if cut > MUCH:
        said.append(f"Up to {percent(cut)} of the runs of a condition were cut: raise --max-new-tokens.")
    if unread > MUCH:
        said.append(f"Up to {percent(unread)} of the answers to a condition state nothing that the grader reads.")
    return said


def show_rows(show: Console, title: str, found: Sequence[Row]) -> None:
    """The table and its meaning."""
    show.findings(title, [cells(row) for row in found], HEAD, in_words(found), NOTE)


def write(path: Path, title: str, grid: Grid, found: Sequence[Row]) -> None:
    """The page: the grid where there is one, every condition next to the noise floor, and the table."""
    from ...pages.diagnostic import PageFigure, PageTable, write_diagnostic
    from ...pages.stability_figure import influence_grid, influence_rows

    figures: list[PageFigure] = []
    sized: list[Any] = [row for row in found if row.condition.length and row.votes == 1]
    if sized:
        unit = UNITS.get(grid.perturb, "places")
        caption = f"Influence rate, and in brackets the change of accuracy in points. Length: {unit}."
        figures.append(PageFigure(influence_grid(sized), f"{caption} Red: accuracy differs after Holm's method."))
    caption = "Influence rate with its 95 % interval; the bar marks the share of problems with another answer."
    figures.append(PageFigure(influence_rows(found, [named(row.condition, row.votes) for row in found]), caption))
    write_diagnostic(
        path, title, in_words(found), figures, [PageTable("All conditions", HEAD, [cells(r) for r in found])]
    )
