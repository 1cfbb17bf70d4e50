"""`ctl pairs`: contrasting responses for preference training, and how often a grader agrees with the contrast."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, cast, get_args

from reasonctl.controller import ControllerError, parse_policy
from reasonctl.probes.files import check_target, write_whole

from ...diagnostics.contrasts import (
    WORDINGS,
    Contrasting,
    Demonstration,
    Pair,
    PairsFile,
    Role,
    Strategy,
    check_pairs,
    collect_pairs,
)
from ...diagnostics.graded_pairs import KEPT, Keep, StrategyResult, outcome, strategy_results, training_line
from ...runs.collect import identity_of
from ...runs.recipe import Recipe
from ...tasks.problem import Problem
from ..console import Console
from ..options import Options
from ..recipes import new_recipe, open_model
from ..sampled import AT_ONCE, SamplingJob, open_job, probe_text
from .diagnosed import short
from .mcq import words

QUESTIONS = 100
"""Questions where nobody asks for a number."""
SHOWN = 2
"""Demonstrations in a prompt; their questions aren't asked."""
HEAD = ("strategy", "% contrast accuracy", "+", "-", "ties", "equal", "empty", "cut", "p", "Holm")
POLICIES = ("greedy", "temperature(1.5)")
"""What `policy` contrasts where nobody says."""
WORDED = ("prefix", "elicitive")
"""Strategies whose prompts ask for better and worse."""
OTHERS: dict[Strategy, Role] = {"parameters": "smaller", "leaderboard": "lower"}
"""Strategies that need another model, and the option that names it."""


def pairs(name: str, options: Options, *, tasks: str, probe: str | None, out: str, keep: Keep, **what: Any) -> None:
    """Make the pairs, print the contrast accuracy of each strategy, and write the pairs and the page."""
    from ...pages.diagnostic import check_out  # reads jinja2

    show = Console(as_json=options.json)
    page = str(Path(out).with_suffix(".html"))
    if not out.endswith(".jsonl"):
        raise ControllerError(f"--out is {out!r}; pairs are lines of JSON, so it must end in .jsonl")
    check_out(page, options.force)
    check_target(out, options.force)
    others = {"smaller": what.pop("smaller"), "lower": what.pop("lower")}
    contrasting = contrasting_of(others, probe, **what)
    shown = SHOWN if "demonstration" in contrasting.strategies else 0
    wanted = (options.n or QUESTIONS) + shown
    rule = probe if "exit" in contrasting.strategies else "none"
    job = open_job(
        show, "ctl pairs", name, options, tasks=tasks, probe=rule, n=wanted, samples=AT_ONCE, out=out, votes=False
    )
    contrasting = replace(contrasting, demonstrations=demonstrations_of(job.problems[:shown]))
    job = replace(job, problems=job.problems[shown:])
    show.say(f"{len(job.problems)} problems of {job.task.name}, {len(contrasting.strategies)} pairs of each")
    if options.dry_run:
        show.result({"n": len(job.problems), "pairs": len(job.problems) * len(contrasting.strategies), "dry_run": True})
        return
    made = _made(show, job, contrasting, others, options, out)
    found, lines = graded(job, contrasting.strategies, made, keep)
    write_whole(Path(out), "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in lines).encode())
    title = f"Contrast pairs of {short(name)} on {job.task.name} ({len(job.problems)} problems)"
    show_results(show, title, found)
    write(Path(page), title, found)
    show.say(f"{len(lines)} pairs written: {out}; {page}")
    settings = {"model": name, "tasks": job.task.name, "seed": options.seed, "n": len(job.problems), "keep": keep}
    show.result(settings | {"written": len(lines), "strategies": [one.to_json() for one in found]})


def contrasting_of(
    others: dict[str, str | None],
    probe: str | None,
    strategies: str,
    policies: tuple[str, str] | None,
    wording: str | None,
) -> Contrasting:
    """What the command line asks for; ControllerError where something is missing or means nothing."""
    chosen = cast("tuple[Strategy, ...]", words("--strategies", strategies, get_args(Strategy)))
    if len(set(chosen)) < len(chosen):
        raise ControllerError(f"--strategies is {strategies!r}; name each once")
    for strategy, other in OTHERS.items():
        if (strategy in chosen) != (others[other] is not None):
            need = f"--strategies {strategy} needs --{other} MODEL"
            raise ControllerError(need if strategy in chosen else f"--{other} is for --strategies {strategy}")
    if probe is not None and "exit" not in chosen:
        raise ControllerError("--probe is for --strategies exit; leave it off")
    if policies is not None and "policy" not in chosen:
        raise ControllerError("--policies is for --strategies policy; leave it off")
    if wording is not None and not set(chosen) & set(WORDED):
        raise ControllerError(f"--wording is for --strategies {' and '.join(WORDED)}; leave it off")
    for text in policies or ():
        parse_policy(text)
    return Contrasting(chosen, WORDINGS[wording or "good-bad"], policies or POLICIES)


def demonstrations_of(problems: Sequence[Problem]) -> tuple[Demonstration, ...]:
    """Each problem with its answer, and the next one's as a wrong one.

    Raises:
        ControllerError: Two answers are the same.
    """
    answers = [problem.answer or "" for problem in problems]
    if len(set(answers)) < len(answers):
        raise ControllerError("the problems that demonstrate have the same answer; give another --seed")
    turned = answers[1:] + answers[:1]
    return tuple(
        Demonstration(problem.question, right, wrong)
        for problem, right, wrong in zip(problems, answers, turned, strict=True)
    )


def _made(
    show: Console,
    job: SamplingJob,
    contrasting: Contrasting,
    others: dict[str, str | None],
    options: Options,
    out: str,
) -> list[list[Pair]]:
    """The pairs of all problems; those of an earlier job of the same settings are read and not made again."""
    if "exit" in contrasting.strategies and job.rule is None:
        raise ControllerError("--strategies exit needs an exit rule; give --probe FILE")
    recipes: dict[Role, Recipe] = {"main": job.recipe}
    for kind, name in others.items():
        if name is not None:
            own = new_recipe(name, open_model(name, options), options)
            recipes[cast(Role, kind)] = replace(own, batch=job.recipe.batch)
    workers, questions = options.machine(job.recipe.model)[0], [problem.question for problem in job.problems]
    check_pairs(recipes, contrasting, questions, job.rule, workers)
    header = vars(contrasting) | job.task.identity()
    header |= {
        "models": {kind: identity_of(recipe.load()) for kind, recipe in recipes.items()},
        "n": len(job.problems),
        "seed": job.recipe.seed,
        "policy": job.recipe.policy,
        "max_new_tokens": job.recipe.max_new_tokens,
        "batch": job.recipe.batch,
        "probe": probe_text(job.rule) or None,
    }
    with closing(PairsFile(Path(out + ".responses.jsonl"), header)) as file:
        done = file.open(force=options.force)
        if done:
            show.say(f"{min(done, len(job.problems))} problems are there already")
        with show.progress("asking") as progress:
            return collect_pairs(
                recipes, contrasting, questions, job.rule, file, done=done, workers=workers, progress=progress
            )


def graded(
    job: SamplingJob, strategies: Sequence[Strategy], made: Sequence[Sequence[Pair]], keep: Keep
) -> tuple[list[StrategyResult], list[dict[str, Any]]]:
    """The contrast accuracy of each strategy, and the lines that are written."""
    outcomes, lines = [], []
    for problem, each in zip(job.problems, made, strict=True):
        graded = [outcome(pair, problem, job.task.grader) for pair in each]
        outcomes.append(graded)
        kept = [(pair, one) for pair, one in zip(each, graded, strict=True) if one in KEPT[keep]]
        lines += [training_line(problem, pair, one) for pair, one in kept]
    return strategy_results(strategies, outcomes), lines


def cells(one: StrategyResult) -> list[str]:
    """A row of the table."""
    a = one.accuracy
    shown = "-" if a is None else f"{100 * a.rate:.0f} ({100 * a.low:.0f}-{100 * a.high:.0f})"
    counts = (one.agrees, one.reversed, one.ties, one.equal, one.empty, one.cut)
    return [one.strategy, shown, *map(str, counts), f"{one.p:.2g}", f"{one.adjusted:.2g}"]


def in_words(found: Sequence[StrategyResult]) -> list[str]:
    """What the strategies are worth here."""
    better = [one.strategy for one in found if one.adjusted < 0.05 and one.agrees > one.reversed]
    worse = [one.strategy for one in found if one.adjusted < 0.05 and one.agrees < one.reversed]
    first = f"Better than a coin (exact tests, Holm-adjusted p < 0.05): {', '.join(better) or 'none'}."
    second = f"Worse than a coin: {', '.join(worse)}." if worse else "None is worse than a coin."
    on = sum(one.decided for one in found)
    third = (
        f"Contrast accuracy is of {on} of {sum(one.pairs for one in found)} pairs: both sides ended, exactly one is "
    )
    third += "right. No other pair is called preferred."
    return [first, second, third, *_cut_in_words(found)]


def _cut_in_words(found: Sequence[StrategyResult]) -> list[str]:
    cut = [f"{one.strategy} {one.cut} of {one.pairs}" for one in found if one.cut]
    if not cut:
        return []
    return [f"Pairs with a cut side, never written: {', '.join(cut)}. A higher --max-new-tokens lets them end."]


def show_results(show: Console, title: str, found: Sequence[StrategyResult]) -> None:
    """The table and its meaning."""
    note = "+: the better side is right and the worse one wrong; -: the other way round; cut: a side ran out of tokens"
    show.findings(title, [cells(one) for one in found], HEAD, in_words(found), note)


def write(path: Path, title: str, found: Sequence[StrategyResult]) -> None:
    """The page: what came of each strategy's pairs, contrast accuracies with intervals, and the table."""
    from ...pages.diagnostic import PageFigure, PageTable, write_diagnostic
    from ...pages.pairs_figure import contrast_rows, outcome_bars

    figures = [
        PageFigure(
            contrast_rows(found),
            "Contrast accuracy with 95 % intervals; dotted: a coin; grey: no difference from it after Holm.",
        ),
        PageFigure(outcome_bars(found), "What the grader says of all pairs."),
    ]
    write_diagnostic(path, title, in_words(found), figures, [PageTable("All strategies", HEAD, [*map(cells, found)])])
