"""`ctl bench`: what a forward of n rows costs here, and the speed of plain, drafted and controlled decoding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

from reasonctl.backends.load import load_drafter
from reasonctl.backends.model import Model
from reasonctl.controller import Call, Controller, Decode, Trace
from reasonctl.controller.drafting.drafter import forget
from reasonctl.controller.drafting.planning.cost import CostCurve, measure
from reasonctl.controller.drafting.planning.cost_cache import keep_curve

from .kinds import KINDS
from .options import Options, card_recipe, new_recipe, open_model
from .play import play
from .rules import open_rule
from .show import Show
from .tasks import load_task

ROUNDS = 7
CONTEXTS = (64, 512, 2048)
"""Lengths of context at which the cost curve is taken, as far as the model's context goes."""
SECONDS = 6.0
"""Spent on each of them, prefill apart."""


@dataclass
class Arm:
    """Runs of one way of decoding: (trace, seconds) each."""

    runs: list[tuple[Trace, float]] = field(default_factory=list)

    def result(self) -> dict[str, float]:
        """Medians over runs; emitted_per_step counts the forwards of the target."""
        return {
            "tokens_per_second": median(len(trace.tokens) / seconds for trace, seconds in self.runs),
            "seconds": median(seconds for _, seconds in self.runs),
            "emitted_per_step": sum(len(t.tokens) for t, _ in self.runs) / sum(t.forwards for t, _ in self.runs),
        }


def run(name: str, options: Options, *, probe: str | None) -> None:
    """Interleaved rounds; medians of wall-clock."""
    show = Show(as_json=options.json)
    rule = None
    if probe != "none" and (probe is not None or name == "tiny"):
        rule, model = open_rule(show, name, options, probe)
    else:
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
    show.title(f"decoding, {len(calls)} interleaved rounds, medians; drafted: {draft}")
    show.table(
        [
            [kind, f"{r['tokens_per_second']:.1f}", f"{1000 * r['seconds']:.1f}", f"{r['emitted_per_step']:.2f}"]
            for kind, r in results.items()
        ],
        "decoding", "tokens/s", "ms/run", "tokens/step",
    )  # fmt: skip
    show.say(verdict(ratio), "bold")
    show.result(
        {"model": name, "backend": model.backend, "draft": draft, **results, "ratio": ratio, "identical": identical}
        | {"cost_curve": {str(context): dict(rows) for context, rows in curve.seconds.items()}}
    )


def questions(name: str) -> list[str]:
    """Of each kind in turn, so that a few rounds ask all kinds; `tiny` knows one kind of problem only."""
    if name == "tiny":
        return [problem.question for problem in load_task("tiny").problems(ROUNDS, stream=7)]
    return [question for group in zip(*KINDS.values(), strict=True) for question in group]


def verdict(ratio: float) -> str:
    """One line; what lies within two hundredths is no difference."""
    word = "pays" if ratio > 1.02 else "costs" if ratio < 0.98 else "makes no difference"
    return f"drafting {word} here: {ratio:.2f} times plain"


def same_tokens(plain: Arm, drafted: Arm) -> bool:
    """Whether every drafted run has the tokens of the plain run with its keys."""
    return all(a.tokens == b.tokens for (a, _), (b, _) in zip(plain.runs, drafted.runs, strict=True))


def interleaved(model: Model, kinds: dict[str, Controller], calls: Sequence[Call]) -> dict[str, Arm]:
    """Every call under every controller, in turn; one short run of each first, so that none pays for a first use."""
    arms = {kind: Arm() for kind in kinds}
    first = calls[0]
    for controller in kinds.values():
        play(model, controller, Call(first.prompt, min(8, first.max_new_tokens), first.eos, first.keys, first.policy))
    for turn, call in enumerate(calls):
        order = list(kinds) if turn % 2 == 0 else list(reversed(kinds))
        for kind in order:
            # Questions come again: what was answered before must not be drafted from.
            forget(kinds[kind].drafter)
            arms[kind].runs.append(play(model, kinds[kind], call))
    return arms


def cost_curve(model: Model, prompt: Sequence[int], *, contexts: Sequence[int] = CONTEXTS) -> CostCurve:
    """Seconds of a forward by its rows, at several lengths of context; kept for the drafters' plans."""
    seconds: dict[int, dict[int, float]] = {}
    for context in contexts:
        if context > contexts[0] and context + 64 > model.context:
            break
        fed = (list(prompt) * (1 + context // len(prompt)))[:context]
        session = model.engine.session()
        seconds[context] = _driven(measure(session, fed, budget=SECONDS))
        session.close()
    curve = CostCurve(seconds)
    keep_curve(model.engine, curve)
    return curve


def _driven(measuring: Any) -> dict[int, float]:
    reply: Any = None
    while True:
        try:
            request: Decode = measuring.send(reply)
        except StopIteration as end:
            found: dict[int, float] = end.value
            return found
        (reply,) = request.session.engine.forward((request,))


def show_curve(show: Show, curve: CostCurve) -> None:
    """Milliseconds and multiples of one row."""
    show.title("one forward of n rows (a chain draft): milliseconds, and times one row, by tokens of context")
    contexts = list(curve.seconds)

    def cell(context: int, n: int) -> str:
        seconds = curve.seconds[context]
        return f"{1000 * seconds[n]:.2f} ({seconds[n] / seconds[1]:.2f})"

    table = [[str(n), *(cell(context, n) for context in contexts)] for n in curve.seconds[contexts[0]]]
    show.table(table, "rows", *(f"at {context}" for context in contexts))
