"""`ctl advise samples`: prints which policy serves votes of n samples best."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reasonctl.controller import ControllerError, parse_policy

from ..advice.samples import PILOT, STRETCHES, TEMPERATURES, Measured, candidates, compare
from ..runs.sampled import SampleSet
from .console import Console
from .options import Options
from .sampled import VOTE_UNIT, open_job, points_cell, sampled, share_cell

PROBLEMS = 100
"""Default number of problems."""


def advise_samples(
    name: str, options: Options, *, tasks: str, probe: str | None, at: str, policies: Sequence[str], out: str
) -> None:
    """Sample every problem under every policy, print the comparison and write it."""
    from ..pages.plotted import check_figure  # reads matplotlib
    from ..pages.samples import write_samples

    show, sizes, n = Console(as_json=options.json), sizes_at(at), options.n or PROBLEMS
    check_figure(out)
    for policy in policies:
        parse_policy(policy)
    asked: dict[str, Any] = {"tasks": tasks, "probe": probe, "n": n, "samples": max(sizes), "out": out, "votes": False}
    job = open_job(show, "ctl advise samples", name, options, **asked)
    count = len(policies) or len(TEMPERATURES) + len(STRETCHES)
    runs = len(job.problems) * count * max(sizes)
    show.say(f"{len(job.problems)} problems of {job.task.name}, {count} policies of {max(sizes)} samples: {runs} runs")
    if options.dry_run:
        show.result({"n": len(job.problems), "runs": runs + (0 if policies else PILOT), "dry_run": True})
        return
    compared = candidates(job.recipe, job.problems, policies)
    sets = [SampleSet(policy, max(sizes), policy, rule=job.rule) for policy in compared]
    found = compare(sampled(show, job, sets, options, out, name), sizes)
    _show(show, found, len(job.problems), count)
    write_samples(Path(out), f"{name} on {job.task.name}", found, len(job.problems))
    show.say(f"written: {out}")
    result = {str(size): [one.to_json() for one in rows] for size, rows in found.items()}
    asked = {"model": name, "tasks": job.task.name, "n": len(job.problems), **job.room}
    show.result(asked | {"unit": "problem", "at": result})


def _show(show: Console, found: dict[int, list[Measured]], problems: int, policies: int) -> None:
    for size, rows in found.items():
        _show_size(show, size, rows)
    show.say(f"intervals: 95 % over {problems} problems, not corrected for choosing among {policies} policies", "dim")
    show.say(VOTE_UNIT, "dim")


def sizes_at(text: str) -> list[int]:
    """The numbers of samples of a text such as `4,16`; each divides the largest.

    Raises:
        ControllerError: it is no such list.
    """
    try:
        sizes = sorted({int(part) for part in text.split(",")})
    except ValueError:
        sizes = []
    if not sizes or not 1 <= sizes[0] <= sizes[-1] <= 4096 or any(sizes[-1] % size for size in sizes):
        raise ControllerError(f"--at is {text!r}; give numbers of samples that divide the largest, such as 4,16")
    return sizes


def _show_size(show: Console, size: int, rows: Sequence[Measured]) -> None:
    show.title(f"votes of {size} samples")
    table = [
        [
            one.policy,
            share_cell(one.accuracy),
            f"{100 * one.any_right.mean:.1f}",
            f"{one.tokens:.0f}",
            points_cell(one.difference),
        ]
        for one in rows
    ]
    show.table(table, "policy", "% right", "% any right", "tokens", "against the best")
    show.say(advice_in_words(size, rows), "bold")


def advice_in_words(size: int, rows: Sequence[Measured]) -> str:
    """The advice for votes of so many samples, in one line."""
    best, *others = rows
    close = [one.policy for one in others if not one.apart]
    note = f"; {', '.join(close)} can't be distinguished from it" if close else "; every other one is worse"
    return f"for {size} samples: --policy '{best.policy}'{note}"
