"""`ctl bench`: what a forward of n rows costs here, and the speed of plain, drafted and controlled decoding."""

from __future__ import annotations

import time
from statistics import median
from typing import Any

from ..backends.model import Model
from ..controller import Call, Controller, Decode, Draft, Keys, Trace, parse_draft, parse_policy
from .options import Options, card_recipe, new_recipe, open_model
from .rules import open_rule
from .show import Show

ROWS = (1, 2, 4, 8, 16)
ROUNDS = 7
QUESTION = "Write the numbers from 1 to 40, then write them again, and check that both lists are the same."


def run(name: str, options: Options, *, probe: str | None) -> None:
    """Interleaved rounds; medians of wall-clock."""
    show = Show(as_json=options.json)
    rule = None
    if probe != "none" and (probe is not None or name == "tiny"):
        rule, model = open_rule(show, name, options, probe)
    else:
        model = open_model(name, options)
    recipe = card_recipe(name, rule.card, options) if rule else new_recipe(name, model, options)
    prompt = model.prompt(QUESTION if name != "tiny" else "48 a-9 b+6 c-3")
    costs = cost_curve(model, prompt)
    show.title("one forward of n rows (a chain draft), milliseconds")
    show.table(
        [[str(n), f"{1000 * s:.2f}", f"{s / costs[1]:.2f}"] for n, s in costs.items()], "rows", "ms", "times one row"
    )
    draft = options.draft if options.draft != "none" else "ngram"
    kinds = {"plain": Controller(), f"drafted ({draft})": Controller(drafter=parse_draft(draft))}
    if rule is not None:
        kinds["controlled"] = Controller(exit=rule)
    speeds: dict[str, list[tuple[float, int]]] = {kind: [] for kind in kinds}
    most = min(recipe.max_new_tokens, 128)
    for turn in range(ROUNDS):
        for kind, controller in kinds.items():
            call = Call(prompt, most, model.eos, Keys(seed=options.seed, run=turn), parse_policy(recipe.policy))
            speeds[kind].append(timed(model, controller, call))
    show.title(f"decoding, {ROUNDS} interleaved rounds, medians")
    rows, result = [], {}
    for kind, taken in speeds.items():
        rate = median(tokens / seconds for seconds, tokens in taken)
        wall = median(seconds for seconds, _ in taken)
        rows.append([kind, f"{rate:.1f}", f"{1000 * wall:.1f}"])
        result[kind] = {"tokens_per_second": rate, "seconds": wall}
    show.table(rows, "decoding", "tokens/s", "ms/run")
    plain, drafted = (result[kind]["tokens_per_second"] for kind in list(kinds)[:2])
    show.say(
        f"drafting {'pays' if drafted > 1.02 * plain else 'does not pay'} here: {drafted / plain:.2f} times plain",
        "bold",
    )
    show.result({"model": name, "backend": model.backend, "rows": costs, "decoding": result})


def cost_curve(model: Model, prompt: list[int]) -> dict[int, float]:
    """Median seconds of a forward by its number of rows, interleaved."""
    session = model.engine.session()
    model.engine.forward((Decode(session, prompt),))
    taken: dict[int, list[float]] = {n: [] for n in ROWS if n == 1 or session.can.branches}
    for turn in range(ROUNDS + 1):
        for n, seconds in taken.items():
            start = time.perf_counter()
            (step,) = model.engine.forward((Decode(session, prompt[-1:], Draft.chain([prompt[0]] * (n - 1))),))
            step.logits(-1)
            if turn:
                seconds.append(time.perf_counter() - start)
            session.keep([])
            session.rollback(1)
    session.close()
    return {n: median(seconds) for n, seconds in taken.items()}


def timed(model: Model, controller: Controller, call: Call) -> tuple[float, int]:
    """(seconds, tokens) of one run."""
    session = model.engine.session()
    trace: Any = Trace()
    start = time.perf_counter()
    for _ in controller.stream(session, model.tokenizer, call, trace):
        pass
    seconds = time.perf_counter() - start
    session.close()
    return seconds, len(trace.tokens)
