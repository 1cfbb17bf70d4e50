"""Interleaved timings and cost curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

from reasonctl.backends import Model
from reasonctl.controller import Call, Controller, Decode
from reasonctl.controller.drafting.planning import CostCurve, keep_curve, measure

from ..runs.making import FinishedRun, PreparedRun, run_window

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
    rounds: list[float] = field(default_factory=list)
    """Tokens a second of each round: one run, or a batch."""

    def add(self, made: Sequence[FinishedRun]) -> None:
        """Take in a round."""
        self.runs += made
        self.rounds.append(sum(len(run.trace.tokens) for run in made) / sum(run.seconds for run in made))

    def result(self) -> dict[str, float]:
        """Medians over rounds and runs. `emitted_per_step` is tokens of a run per forward that it took part in.

        `seconds` of a run in a batch are those of its round, divided by the runs.
        """
        return {
            "tokens_per_second": median(self.rounds),
            "seconds": median(seconds for _, seconds in self.runs),
            "emitted_per_step": sum(len(t.tokens) for t, _ in self.runs) / sum(t.forwards for t, _ in self.runs),
        }


def same_tokens(plain: Arm, drafted: Arm) -> bool:
    """Whether every drafted run has the tokens of the plain run with its keys."""
    return all(a.tokens == b.tokens for (a, _), (b, _) in zip(plain.runs, drafted.runs, strict=True))


def interleaved(
    model: Model, controllers: dict[str, Controller], calls: Sequence[Call], batch: int = 1
) -> dict[str, Arm]:
    """Every round under every controller, in turn. A short run of each comes first, so that none pays for a first use.

    Args:
        model: The model, loaded for such a batch.
        controllers: The ways of decoding.
        calls: What is decoded.
        batch: Calls of a round, which share forwards.
    """
    arms = {name: Arm() for name in controllers}
    first = replace(calls[0], max_new_tokens=min(8, calls[0].max_new_tokens))
    for controller in controllers.values():
        run_window(model, [PreparedRun(controller, first)] * batch, batch)
    for turn, start in enumerate(range(0, len(calls), batch)):
        order = list(controllers) if turn % 2 == 0 else list(reversed(controllers))
        for name in order:
            # Questions come again: what was answered before must not be drafted from.
            if (drafter := controllers[name].drafter) is not None:
                drafter.forget()
            runs = [PreparedRun(controllers[name], call) for call in calls[start : start + batch]]
            arms[name].add(run_window(model, runs, batch))
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
