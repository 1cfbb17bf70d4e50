"""`ctl bench`: what a forward of n rows costs here, and the speed of plain, drafted and controlled decoding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from reasonctl.backends import BUNDLED, is_masked, load_drafter
from reasonctl.controller import Controller
from reasonctl.controller.drafting.planning import CostCurve
from reasonctl.probes import ProbeExit

from ..evaluation.speed import ROUNDS, Arm, cost_curve, interleaved, same_tokens
from ..runs.making import PreparedRun, check_batch
from ..runs.recipe import Recipe
from ..tasks.draft_prompts import DRAFT_PROMPTS
from ..tasks.sources import load_task
from .console import Console
from .flags import PROMISE
from .masked import bench_masked, refuse_order
from .options import Options
from .recipes import open_any
from .refusal import given, refuse

LENGTH = 128
"""Most tokens of a timed run where nobody asks for a number."""


def bench(name: str, options: Options, *, probe: str | None, order: str | None = None) -> None:
    """Print the cost curve, and the median speeds of plain, drafted and controlled decoding, in interleaved rounds."""
    show = Console(as_json=options.json)
    if is_masked(name):
        refuse("ctl bench with a masked model", given(), {"probe": "it doesn't think"})
        bench_masked(show, name, options, order)
        return
    refuse_order(order)
    rule, model, recipe = open_any(show, "ctl bench", name, options, probe, *PROMISE, because="nothing is promised")
    short = timed(recipe, options.max_new_tokens)
    draft = options.draft if options.draft != "none" else "hierarchy"
    kinds = {"plain": Controller(), "drafted": Controller(drafter=load_drafter(draft, threads=short.threads))}
    if rule is not None:
        kinds["controlled"] = Controller(exit=rule)
    rounds, batch, asked = options.n or ROUNDS, options.batch, questions(name)
    calls = [short.call(model, asked[turn % len(asked)], turn) for turn in range(rounds * batch)]
    for controller in kinds.values():
        check_batch(model, [PreparedRun(controller, call) for call in calls], batch)
    curve = cost_curve(model, calls[0].prompt)
    show_curve(show, curve)
    arms = interleaved(model, kinds, calls, batch)
    together = f" of {batch} runs that share forwards" if batch > 1 else ""
    show.title(f"decoding, {rounds} interleaved rounds{together}, medians; {arms_in_words(draft, rule)}")
    measured = {
        "model": name,
        "backend": model.backend,
        "draft": draft,
        "batch": batch,
        "form": rule and rule.form,
        **show_arms(show, arms),
    }
    show.result(measured | {"cost_curve": {str(context): dict(rows) for context, rows in curve.seconds.items()}})


def timed(recipe: Recipe, asked: int | None) -> Recipe:
    """The recipe of the runs that are timed: as long as was asked for; without a number short ones tell as much."""
    return replace(recipe, max_new_tokens=asked or min(recipe.max_new_tokens, LENGTH))


def show_arms(show: Console, arms: Mapping[str, Arm]) -> dict[str, Any]:
    """Print the speeds, and whether drafting pays.

    Returns:
        Their part of the JSON.
    """
    results = {kind: arm.result() for kind, arm in arms.items()}
    ratio = results["drafted"]["tokens_per_second"] / results["plain"]["tokens_per_second"]
    rows = [
        [kind, f"{r['tokens_per_second']:.1f}", f"{1000 * r['seconds']:.1f}", f"{r['emitted_per_step']:.2f}"]
        for kind, r in results.items()
    ]
    show.table(rows, "decoding", "tokens/s", "ms/run", "tokens/step")
    show.say(verdict(ratio), "bold")
    return {**results, "ratio": ratio, "identical": same_tokens(arms["plain"], arms["drafted"])}


def arms_in_words(draft: str, rule: ProbeExit | None) -> str:
    """What is drafted, and how an exit is made, for people."""
    return f"drafted: {draft}" if rule is None else f"drafted: {draft}; controlled: exits of the form {rule.form}"


def questions(name: str) -> list[str]:
    """Questions of each kind in turn, so that a few rounds ask all kinds. A bundled model knows only its own."""
    if name in BUNDLED:
        return [problem.question for problem in load_task("tiny").problems(ROUNDS, stream=7)]
    return [question for group in zip(*DRAFT_PROMPTS.values(), strict=True) for question in group]


def verdict(ratio: float) -> str:
    """One line for people. Less than two hundredths count as no difference."""
    word = "pays" if ratio > 1.02 else "costs" if ratio < 0.98 else "makes no difference"
    return f"drafting {word} here: {ratio:.2f} times plain"


def show_curve(show: Console, curve: CostCurve) -> None:
    """Print the curve in milliseconds, and as multiples of one row."""
    show.title("one forward of n rows (a chain draft): milliseconds, and times one row, by tokens of context")
    contexts = list(curve.seconds)

    def cell(context: int, n: int) -> str:
        seconds = curve.seconds[context]
        return f"{1000 * seconds[n]:.2f} ({seconds[n] / seconds[1]:.2f})"

    table = [[str(n), *(cell(context, n) for context in contexts)] for n in curve.seconds[contexts[0]]]
    show.table(table, "rows", *(f"at {context}" for context in contexts))
