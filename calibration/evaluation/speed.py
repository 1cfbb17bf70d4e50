"""Interleaved timings and cost curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from reasonctl.backends import Model
from reasonctl.controller import Call, Controller, Decode
from reasonctl.controller.drafting.planning import CostCurve, keep_curve, measure

from ..runs.worker import FinishedRun, run_once

ROUNDS = 7
"""Calls that are timed, by default."""
CONTEXTS = (64, 512, 2048)
"""Lengths of context at which the cost curve is taken, as far as the model's context goes."""
SECONDS = 6.0
"""Spent on each of them, prefill apart."""


@dataclass
class Arm:
    """Runs of one way of decoding."""

    runs: list[FinishedRun] = field(default_factory=list)
    """In the order of the calls."""

    def result(self) -> dict[str, float]:
        """Medians over runs. `emitted_per_step` is tokens per forward of the target."""
        return {
            "tokens_per_second": median(len(trace.tokens) / seconds for trace, seconds in self.runs),
            "seconds": median(seconds for _, seconds in self.runs),
            "emitted_per_step": sum(len(t.tokens) for t, _ in self.runs) / sum(t.forwards for t, _ in self.runs),
        }


def same_tokens(plain: Arm, drafted: Arm) -> bool:
    """Whether every drafted run has the tokens of the plain run with its keys."""
    return all(a.tokens == b.tokens for (a, _), (b, _) in zip(plain.runs, drafted.runs, strict=True))


def interleaved(model: Model, controllers: dict[str, Controller], calls: Sequence[Call]) -> dict[str, Arm]:
    """Every call under every controller, in turn.

    A short run of each comes first, so that none pays for a first use.
    """
    arms = {name: Arm() for name in controllers}
    first = calls[0]
    for controller in controllers.values():
        run_once(
            model, controller, Call(first.prompt, min(8, first.max_new_tokens), first.eos, first.keys, first.policy)
        )
    for turn, call in enumerate(calls):
        order = list(controllers) if turn % 2 == 0 else list(reversed(controllers))
        for name in order:
            # Questions come again: what was answered before must not be drafted from.
            if (drafter := controllers[name].drafter) is not None:
                drafter.forget()
            arms[name].runs.append(run_once(model, controllers[name], call))
    return arms


def cost_curve(model: Model, prompt: Sequence[int], *, contexts: Sequence[int] = CONTEXTS) -> CostCurve:
    """Seconds of a forward by its rows, at several lengths of context; stored for the drafters' plans."""
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
