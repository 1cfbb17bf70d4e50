"""Thinking longer only where the answer isn't settled: re-opened spans (s1), fixed times against asked of the probe.

python examples/adaptive_thinking.py -n 400

`tiny` checks itself for long by its own law, so a hasty version of it is made: `</think>` gets a bonus in the logits,
as in a model that hardly reflects. Every arm answers the same problems with the same keys.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from reasonctl.backends.load import load_model, tiny_folder
from reasonctl.calibration.options import BUNDLED_PROBE
from reasonctl.calibration.spread import cores, spread
from reasonctl.calibration.tasks import load_task
from reasonctl.controller import Call, Controller, Keys, Markers, Sampling, Thinking, Trace, draw
from reasonctl.probes import load_exit
from reasonctl.probes.answers import after_thinking

THINKING = Thinking(Markers("<think>", "</think>"), "</think>\n")


@dataclass(frozen=True)
class Hasty:
    """Sampling with a bonus for the token that closes thinking; its scale is that of logits."""

    bonus: float
    close: int
    law: Sampling = Sampling(temperature=0.6)

    def start(self) -> None:
        return None

    def step(self, state: None, row: Any) -> tuple[None, int]:
        logits = row.logits.astype(np.float64)
        # Only where the model might close at all: after a finished line.
        logits[self.close] += self.bonus if logits[self.close] > logits.max() - 8 else 0.0
        _, weights = self.law.law(logits)
        return None, draw(weights, row.uniform())


ARMS: dict[str, Callable[[Any], Controller]] = {
    "as it is": lambda rule: Controller(thinking=THINKING),
    **{f"re-opened {k} times": lambda rule, k=k: Controller(thinking=THINKING, continue_times=k) for k in (1, 2, 4, 8)},
    **{
        f"re-opened up to {k} times, probe asked": lambda rule, k=k: Controller(exit=rule, continue_times=k)
        for k in (1, 2, 4, 8, 16)
    },
}


def answer(arm: str, bonus: float, risk: float, index: int, question: str) -> tuple[str, int]:
    """(answer text, tokens) of one run."""
    model = load_model("tiny", threads=1)
    controller = ARMS[arm](load_exit(tiny_folder() / BUNDLED_PROBE, risk=risk))
    (close,) = model.tokenizer.encode("</think>")
    call = Call(model.prompt(question), 900, model.eos, Keys(seed=5, run=index), Hasty(bonus, close))
    session, trace = model.engine.session(), Trace()
    for _ in controller.stream(session, model.tokenizer, call, trace):
        pass
    session.close()
    text = model.tokenizer.decode([token for token in trace.tokens if token not in model.eos])
    return after_thinking(text, THINKING.markers), trace.cost


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=400)
    parser.add_argument("--bonus", type=float, default=6.0)
    parser.add_argument("--risk", type=float, default=0.02)
    given = parser.parse_args()
    task = load_task("tiny")
    problems = task.problems(given.n, stream=555)
    print(f"{given.n} problems, </think> + {given.bonus} in the logits, risk {given.risk}")
    for arm in ARMS:
        jobs = [(arm, given.bonus, given.risk, i, problem.question) for i, problem in enumerate(problems)]
        answers = list(spread(answer, jobs, workers=cores()))
        right = np.mean([task.grader.right(text, p) for (text, _), p in zip(answers, problems, strict=True)])
        print(f"{arm:40s} right {right:.3f}  tokens {np.mean([tokens for _, tokens in answers]):6.1f}", flush=True)


if __name__ == "__main__":
    main()
