"""`ctl bench`: what a forward of n rows costs here, and the speed of plain, drafted and controlled decoding."""

from __future__ import annotations

from dataclasses import replace

from reasonctl.backends import BUNDLED, load_drafter
from reasonctl.controller import Controller
from reasonctl.controller.drafting.planning import CostCurve
from reasonctl.probes import ProbeExit

from ..evaluation.speed import ROUNDS, cost_curve, interleaved, same_tokens
from ..tasks.draft_prompts import DRAFT_PROMPTS
from ..tasks.sources import load_task
from .console import Console
from .flags import PROMISE
from .options import Options
from .recipes import card_recipe, new_recipe, open_model, open_rule, probed


def bench(name: str, options: Options, *, probe: str | None) -> None:
    """Print the cost curve, and the median speeds of plain, drafted and controlled decoding, in interleaved rounds."""
    show = Console(as_json=options.json)
    rule = None
    if probed(name, probe):
        rule, model = open_rule(show, name, options, probe)
    else:
        options.refuse("ctl bench without a probe", *PROMISE, because="nothing is promised")
        model = open_model(name, options)
    recipe = card_recipe(name, rule.card, options) if rule else new_recipe(name, model, options)
    short = replace(recipe, max_new_tokens=min(recipe.max_new_tokens, 128))
    asked = questions(name)
    curve = cost_curve(model, model.prompt(asked[0]))
    show_curve(show, curve)
    draft = options.draft if options.draft != "none" else "hierarchy"
    drafter = load_drafter(draft, threads=options.machine(name)[1])
    kinds = {"plain": Controller(), "drafted": Controller(drafter=drafter)}
    if rule is not None:
        kinds["controlled"] = Controller(exit=rule)
    calls = [short.call(model, asked[turn % len(asked)], turn) for turn in range(options.n or ROUNDS)]
    arms = interleaved(model, kinds, calls)
    results = {kind: arm.result() for kind, arm in arms.items()}
    ratio = results["drafted"]["tokens_per_second"] / results["plain"]["tokens_per_second"]
    identical = same_tokens(arms["plain"], arms["drafted"])
    show.title(f"decoding, {len(calls)} interleaved rounds, medians; {arms_in_words(draft, rule)}")
    show.table(
        [
            [kind, f"{r['tokens_per_second']:.1f}", f"{1000 * r['seconds']:.1f}", f"{r['emitted_per_step']:.2f}"]
            for kind, r in results.items()
        ],
        "decoding",
        "tokens/s",
        "ms/run",
        "tokens/step",
    )
    show.say(verdict(ratio), "bold")
    show.result(
        {"model": name, "backend": model.backend, "draft": draft, "form": rule and rule.form, **results}
        | {"ratio": ratio, "identical": identical, "cost_curve": {str(n): dict(of) for n, of in curve.seconds.items()}}
    )


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
