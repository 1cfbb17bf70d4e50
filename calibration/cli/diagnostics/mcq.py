"""`ctl mcq`: multiple choice under every way of asking, what selection bias costs, and what debiasing gives."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast, get_args

from reasonctl.controller import ControllerError
from reasonctl.probes.files import check_target, write_whole

from ...diagnostics.answers_file import Answered
from ...diagnostics.mcq import Cell, CellResult, Debias, McqGrid, results
from ...diagnostics.mcq_prompts import Format, Order, Style, Worked
from ...diagnostics.mcq_questions import questions_of
from ...diagnostics.option_bias import PriorFile, letter_prior, rotated_shares
from ...runs.collect import identity_of
from ...runs.job_file import append_made
from ...runs.recipe import Recipe
from ..console import Console
from ..options import Options
from ..sampled import AT_ONCE, SamplingJob, open_job
from .diagnosed import answered, short
from .stability import numbers

QUESTIONS = 100
"""Questions where nobody asks for a number."""
ESTIMATION = 16
"""Questions that a prior is estimated on; they aren't asked."""
HEAD = ("cell", "% right", "% unparsed", "chosen", "bias", "RStd", "tokens")


def mcq(name: str, options: Options, *, tasks: str, sft: str | None, out: str, **ways: Any) -> None:
    """Ask every question in every way, print what comes of it, and write the page and the file for training.

    ways: those of the grid.
    """
    from ...pages.diagnostic import check_out  # reads jinja2

    show = Console(as_json=options.json)
    grid = grid_of(**ways, whole=sft is not None)
    check_out(out, options.force)
    if sft is not None:
        check_target(sft, options.force)
    job, parts = _open(show, name, options, tasks, grid, out)
    grid = replace(grid, whole=grid.whole or job.recipe.markers is not None)
    asked, cells = parts.asked, grid.cells()
    runs = sum(len(grid.variants(cell, asked[0].question)) for cell in cells)
    show.say(f"{len(asked)} questions of {job.task.name}, {len(cells)} ways of asking, {runs} runs of each")
    if options.dry_run:
        show.result({"n": len(asked), "runs": runs * len(asked), "dry_run": True})
        return
    prior = _priors(show, job, grid, parts, options, out)
    asks = [grid.asks(one, parts.worked, prior, i) for i, one in enumerate(asked)]
    shown = {"letters": [[*values] for values in prior.values()], "grid": vars(grid), "apart": len(parts.apart)}
    answers = answered(show, job, asks, options, out, diagnostic="mcq", **shown)
    found = results(grid, asked, answers)
    title = f"{short(name)} on {job.task.name} ({len(asked)} multiple-choice questions)"
    show_results(show, title, found)
    write(Path(out), title, found)
    show.say(f"written: {out}")
    if sft is not None:
        kept = training_lines(grid, asked, answers, found)
        write_whole(Path(sft), "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in kept).encode())
        show.say(f"{len(kept)} right answers written: {sft}")
    settings = {"model": name, "tasks": job.task.name, "seed": options.seed, "n": len(asked)}
    priors = [{"shots": key[0], "format": key[1], "prior": [*value]} for key, value in prior.items()]
    show.result(settings | {"priors": priors, "cells": [one.to_json() for one in found]})


class Parts(NamedTuple):
    """What the questions are for."""

    worked: list[Worked]
    """Worked examples."""
    estimated: list[Worked]
    """For the prior."""
    asked: list[Worked]
    """The others, which are asked."""

    @property
    def apart(self) -> list[Worked]:
        """Those that aren't asked."""
        return [*self.worked, *self.estimated]


def _open(show: Console, name: str, options: Options, tasks: str, grid: McqGrid, out: str) -> tuple[SamplingJob, Parts]:
    """The job, with the problems that are asked, and all questions."""
    shots, estimated = max(grid.shots), ESTIMATION if "prior" in grid.debias else 0
    wanted = (options.n or QUESTIONS) + shots + estimated
    asked: dict[str, Any] = {"tasks": tasks, "probe": "none", "n": wanted, "samples": AT_ONCE, "out": out}
    job = open_job(show, "ctl mcq", name, options, votes=False, **asked)
    questions, apart = questions_of(job.problems), shots + estimated
    if len(questions) <= apart:
        raise ControllerError(f"{len(questions)} questions are too few: {apart} are examples or for the prior")
    parts = Parts(questions[:shots], questions[shots:apart], questions[apart:])
    return replace(job, problems=job.problems[apart:]), parts


def grid_of(shots: str, orders: str, formats: str, temperatures: str, debias: str, irac: bool, whole: bool) -> McqGrid:
    """The grid that the command line asks for; ControllerError where it means nothing."""
    return McqGrid(
        tuple(int(one) for one in numbers("--shots", shots, whole=True)),
        cast("tuple[Order, ...]", words("--orders", orders, get_args(Order))),
        cast("tuple[Format, ...]", words("--formats", formats, get_args(Format))),
        tuple(numbers("--temperatures", temperatures)),
        cast("tuple[Debias, ...]", words("--debias", debias, get_args(Debias))),
        irac,
        whole,
    )


def words(option: str, text: str, known: Sequence[str]) -> tuple[str, ...]:
    """Words that are separated by commas.

    Raises:
        ControllerError: One of them isn't known.
    """
    found = tuple(part.strip() for part in text.split(","))
    if not set(found) <= set(known):
        raise ControllerError(f"{option} is {text!r}; give one of {', '.join(known)}, or several with commas")
    return found


def _priors(
    show: Console,
    job: SamplingJob,
    grid: McqGrid,
    parts: Parts,
    options: Options,
    out: str,
) -> dict[tuple[int, Format], tuple[float, ...]]:
    """The model's prior for the letters, for each number of examples and each format; none where no cell divides by it.

    What an earlier job of the same settings computed is read.
    """
    if "prior" not in grid.debias or "answer" not in grid.orders:
        return {}
    keys = [(shots, kind) for shots in grid.shots for kind in grid.formats]
    jobs = [
        (job.recipe, Style(kind, "answer", grid.irac), one, tuple(parts.worked[:shots]))
        for shots, kind in keys
        for one in parts.estimated
    ]
    header: dict[str, Any] = {"model": identity_of(job.recipe.load()), "seed": options.seed, "grid": vars(grid)}
    header |= job.task.identity()
    with closing(PriorFile(Path(out + ".priors.jsonl"), header)) as file:
        done = file.open(force=options.force)
        with show.progress("estimating the prior") as progress:
            append_made(
                shares_of,
                jobs,
                lambda _, made: file.append(made),
                done=done,
                workers=options.machine(job.recipe.model)[0],
                progress=progress,
            )
        shares, size = file.read(), len(parts.estimated)
    return {key: tuple(map(float, letter_prior(shares[i * size : (i + 1) * size]))) for i, key in enumerate(keys)}


def shares_of(recipe: Recipe, style: Style, asked: Worked, shots: Sequence[Worked]) -> Any:
    """`rotated_shares` under a recipe's model; runs in a worker."""
    return rotated_shares(recipe.load(), style, asked, shots)


def named(cell: Cell) -> str:
    """A cell in words."""
    parts = [cell.format, f"{cell.order} first", f"{cell.shots} shots", f"T {cell.temperature:g}"]
    return ", ".join([*parts, *([cell.debias] if cell.debias != "none" else [])])


def cells_of(result: CellResult) -> list[str]:
    """A row of the table."""
    right, unread = result.accuracy, result.unparsed
    return [
        named(result.cell),
        f"{100 * right.rate:.0f} ({100 * right.low:.0f}-{100 * right.high:.0f})",
        f"{100 * unread.rate:.0f}",
        " ".join(map(str, result.bias.chosen)),
        "-" if math.isnan(result.bias.distance) else f"{result.bias.distance:.2f}",
        f"{result.bias.recall_sd:.2f}",
        f"{result.tokens:.0f}",
    ]


def in_words(found: Sequence[CellResult]) -> list[str]:
    """What the cells say: the range of accuracies, unread answers, and what debiasing gives."""
    rates = [one.accuracy.rate for one in found]
    best = max(found, key=lambda one: one.accuracy.rate)
    worst = max(found, key=lambda one: one.unparsed.rate)
    first = f"Accuracy is {100 * min(rates):.0f} to {100 * max(rates):.0f} % by the way of asking; "
    first += f"the best cell is {named(best.cell)}."
    if min(rates) == max(rates):
        first = f"Accuracy is {100 * rates[0]:.0f} % in every way of asking."
    unread = f"Most answers that can't be read: {100 * worst.unparsed.rate:.0f} % ({named(worst.cell)}). "
    unread = unread + "They count as wrong." if worst.unparsed.rate else "All answers can be read."
    lines = [first, unread]
    for way in ("prior", "cyclic"):
        pairs = [(_plain(found, one), one) for one in found if one.cell.debias == way]
        both = [(a, b) for a, b in pairs if a is not None]
        if both:
            gain = sum(b.accuracy.rate - a.accuracy.rate for a, b in both) / len(both)
            before, after = (sum(pair[i].bias.recall_sd for pair in both) / len(both) for i in (0, 1))
            size = f"{len(both)} cell{'s' * (len(both) > 1)}"
            lines.append(
                f"Debiasing by {way}: accuracy {100 * gain:+.1f} points on average over {size}, "
                f"RStd {before:.2f} to {after:.2f}. It removes the preference for letters and places only."
            )
    return lines


def _plain(found: Sequence[CellResult], one: CellResult) -> CellResult | None:
    """The same cell without debiasing."""
    wanted = vars(one.cell) | {"debias": "none"}
    return next((other for other in found if vars(other.cell) == wanted), None)


def show_results(show: Console, title: str, found: Sequence[CellResult]) -> None:
    """The table and its meaning."""
    gold = " ".join(map(str, found[0].bias.gold))
    note = f"chosen: times A, B, ... was chosen (right: {gold}); bias: total variation between the two"
    show.findings(title, [cells_of(one) for one in found], HEAD, in_words(found), note)


def write(path: Path, title: str, found: Sequence[CellResult]) -> None:
    """The page: accuracy and unread answers of each cell, the letters that were chosen, and the table."""
    from ...pages.diagnostic import PageFigure, PageTable, write_diagnostic
    from ...pages.mcq_figure import accuracy_rows, chosen_letters

    names = [named(one.cell) for one in found]
    figures = [
        PageFigure(
            accuracy_rows(found, names), "Share right, with 95 % intervals; dotted: by chance. Red: can't be read."
        ),
        PageFigure(
            chosen_letters(found, names),
            "Share of answers that choose each letter, less the share of questions whose right letter it is.",
        ),
    ]
    table = PageTable("All ways of asking", HEAD, [cells_of(one) for one in found])
    write_diagnostic(path, title, in_words(found), figures, [table])


def training_lines(
    grid: McqGrid,
    asked: Sequence[Worked],
    answers: Sequence[Sequence[Answered]],
    found: Sequence[CellResult],
) -> list[dict[str, Any]]:
    """Right answers that ended by themselves, as conversations for supervised fine-tuning; no prompt with one twice.

    The prompt has no worked examples: what a model learns is to answer so without them.
    """
    lines: dict[tuple[str, str], dict[str, Any]] = {}
    at = 0
    for result in found:
        cell, style = result.cell, grid.style(result.cell)
        if cell.debias == "none":
            for one, letter, made in zip(asked, result.letters, answers, strict=True):
                if letter == one.gold and made[at].finish == "stop":
                    question, text = style.prompt(one.question), made[at].text.strip()
                    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": text}]
                    lines.setdefault((question, text), {"messages": messages, **vars(cell), "irac": style.irac})
        at += len(grid.variants(cell, asked[0].question))
    return list(lines.values())
