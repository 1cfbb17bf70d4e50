"""`ctl mcq`: multiple choice under every way of asking, what selection bias costs, and what debiasing gives."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast, get_args

from reasonctl.controller import ControllerError
from reasonctl.controller.sampling import option_spans
from reasonctl.probes.files import check_target, write_whole

from ...diagnostics.answers_file import Answered, check_asks
from ...diagnostics.mcq import CellResult, Debias, McqGrid, results
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
from .mcq_words import Findings, notes_of, show_results, write
from .stability import numbers

QUESTIONS = 100
"""Questions where nobody asks for a number."""
ESTIMATION = 16
"""Questions that a prior is estimated on; they aren't asked."""


def mcq(name: str, options: Options, *, tasks: str, sft: str | None, out: str, **ways: Any) -> None:
    """Ask every question in every way, print what comes of it, and write the page and the file for training.

    ways: those of the grid.
    """
    from ...pages.diagnostic import check_out  # reads jinja2

    show = Console(as_json=options.json)
    grid = grid_of(**ways, whole=sft is not None)
    check_out(out, options.force)
    if sft is not None:
        _check_training(grid, sft, options)
    job, parts = _open(show, name, options, tasks, grid, out)
    grid = _checked(show, job, grid, parts)
    asked, cells, notes = parts.asked, grid.cells(), notes_of(parts.asked, grid)
    runs = sum(len(grid.variants(cell, asked[0].question)) for cell in cells)
    show.say(f"{len(asked)} questions of {job.task.name}, {len(cells)} ways of asking, {runs} runs of each")
    for note in notes:
        show.say(note)
    if options.dry_run:
        show.result({"n": len(asked), "runs": runs * len(asked), "dry_run": True})
        return
    prior = _priors(show, job, grid, parts, options, out)
    asks = [grid.asks(one, parts.worked, prior, i) for i, one in enumerate(asked)]
    shown = {"letters": [[*values] for values in prior.values()], "grid": grid.header(), "apart": len(parts.apart)}
    answers = answered(show, job, asks, options, out, diagnostic="mcq", **shown)
    found = Findings(results(grid, asked, answers), notes)
    title = f"{short(name)} on {job.task.name} ({len(asked)} multiple-choice questions)"
    show_results(show, title, found)
    write(Path(out), title, found)
    show.say(f"written: {out}")
    if sft is not None:
        kept = training_lines(grid, asked, answers, found.cells)
        write_whole(Path(sft), "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in kept).encode())
        show.say(f"{len(kept)} right answers written: {sft}")
    settings = {"model": name, "tasks": job.task.name, "seed": options.seed, "n": len(asked)}
    priors = [{"shots": key[0], "format": key[1], "prior": [*value]} for key, value in prior.items()]
    counts = {"made_up": sum(one.made for one in asked), "referring": sum(one.question.refers for one in asked)}
    show.result(settings | counts | {"priors": priors, "cells": found.to_json(), "words": found.in_words()})


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


def _check_training(grid: McqGrid, sft: str, options: Options) -> None:
    """Refuse a file for training that would have no line."""
    if "none" not in grid.debias:
        raise ControllerError("--sft writes answers of cells without debiasing, and there is none; add --debias none")
    check_target(sft, options.force)


def _checked(show: Console, job: SamplingJob, grid: McqGrid, parts: Parts) -> McqGrid:
    """The grid as this model can be asked; ControllerError for questions that it can't be asked with."""
    if job.recipe.markers is not None:
        grid = grid.for_thinking()
    _check_examples(grid, parts)
    _check_options(job, grid, parts)
    if grid.thinks:
        show.say(
            "this model thinks before it answers: runs are written to their end, no answer is opened, cyclic votes"
        )
    return grid


def _check_examples(grid: McqGrid, parts: Parts) -> None:
    """Refuse worked examples that would teach to leave out the explanation that is asked for first."""
    lacking = [one for one in parts.worked if not one.explanation]
    if "explanation" in grid.orders and lacking:
        raise ControllerError(
            f"--shots {max(grid.shots)} with --orders explanation needs examples that explain, and "
            f'{lacking[0].question.stem[:60]!r} has no explanation; add "explanation" to the task file\'s lines, or '
            "give --shots 0 or --orders answer"
        )


def _check_options(job: SamplingJob, grid: McqGrid, parts: Parts) -> None:
    """Refuse a question whose options the stage `cyclic_options` wouldn't find in its prompt as they are."""
    if not grid.opened or "cyclic" not in grid.debias:
        return
    for kind in grid.formats:
        style = Style(kind, "answer", grid.irac)
        for one in parts.asked:
            text = job.model.tokenizer.decode(job.model.prompt(style.prompt(one.question, parts.worked)))
            found = [text[first:end] for first, end in option_spans(text)]
            if found != [style.shown(option) for option in one.question.options]:
                raise ControllerError(
                    f"--debias cyclic finds other options in the prompt of {one.question.stem[:60]!r} than the "
                    f"question's ({kind}): {found[-1:]!r:.60} is the last; leave the question out, or cyclic"
                )


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
    workers, flat = options.machine(job.recipe.model)[0], dict.fromkeys(keys, (1.0, 1.0))
    asks = [grid.asks(one, parts.worked, flat, i) for i, one in enumerate(parts.asked)]
    check_asks(job.recipe, asks, job.rule, workers)  # of what is asked once the prior is known
    jobs = [
        (job.recipe, Style(kind, "answer", grid.irac), one, tuple(parts.worked[:shots]))
        for shots, kind in keys
        for one in parts.estimated
    ]
    header: dict[str, Any] = {"model": identity_of(job.recipe.load()), "seed": options.seed, "grid": grid.header()}
    header |= job.task.identity()
    with closing(PriorFile(Path(out + ".priors.jsonl"), header)) as file:
        done = file.open(force=options.force)
        with show.progress("estimating the prior") as progress:
            append_made(
                shares_of,
                jobs,
                lambda _, made: file.append(made),
                done=done,
                workers=workers,
                progress=progress,
            )
        shares, size = file.read(), len(parts.estimated)
    return {key: tuple(map(float, letter_prior(shares[i * size : (i + 1) * size]))) for i, key in enumerate(keys)}


def shares_of(recipe: Recipe, style: Style, asked: Worked, shots: Sequence[Worked]) -> Any:
    """`rotated_shares` under a recipe's model; runs in a worker."""
    return rotated_shares(recipe.load(), style, asked, shots)


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
