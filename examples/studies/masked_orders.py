"""What the order of unmasking does to the bundled masked model: accuracy, AR-ness, pass@k, early commit, variance.

Prints one JSON line for each part. `--part` chooses: curves, temperature, commit, variance.
"""

from __future__ import annotations

import argparse
import json
from itertools import product
from math import comb
from statistics import mean

import numpy as np

from reasonctl.backends import MaskedText, load_masked
from reasonctl.calibration.evaluation.early_commit import calibrate_commit, commit_table, split
from reasonctl.calibration.evaluation.redraws import check
from reasonctl.calibration.tasks.problem import Problem
from reasonctl.calibration.tasks.tiny import fresh_problems
from reasonctl.controller import Keys, parse_policy
from reasonctl.controller.diffusion import (
    AnswerAfter,
    Commit,
    Confidence,
    Signal,
    Stability,
    Unmask,
    UnmaskingTrace,
    ar_ness,
    coupled_log_prob,
    independent_log_prob,
    parse_unmasking,
    run_all,
)
from reasonctl.probes.risk import Grid, choose_threshold

LENGTH = 32
ORDERS = ("left", "confidence", "entropy", "margin", "random")
COMMITTED = ("confidence", "confidence(block=8)", "left", "entropy_bound(0.01)")
"""Orders of the early commit."""


def made(
    model: MaskedText, problems: list[Problem], order: str, policy: str, commit: Commit | None = None, samples: int = 1
) -> list[UnmaskingTrace]:
    """`samples` runs of every problem, those of a problem next to each other, in batches."""
    settings, chain = parse_unmasking(order, LENGTH, commit), parse_policy(policy)
    prompts = [model.prompt(problem.question) for problem in problems for _ in range(samples)]
    runs = [Unmask(p, settings, chain, Keys(seed=0, run=i), model.eos, model.tokenizer) for i, p in enumerate(prompts)]
    return [trace for first in range(0, len(runs), 64) for trace in run_all(model.engine, runs[first : first + 64])]


def is_right(model: MaskedText, problem: Problem, tokens: list[int]) -> bool:
    """Whether the text states the gold answer."""
    text = model.tokenizer.decode([token for token in tokens if token not in model.eos])
    return text.rstrip().endswith(f"The answer is {problem.answer}.")


def curves(model: MaskedText, n: int) -> None:
    """Accuracy against order and forwards, greedy."""
    problems = fresh_problems(n, 11)
    for order in ORDERS:
        for steps in (32, 16, 8, 4, 1):
            traces = made(model, problems, f"{order}(steps={steps})", "greedy")
            say("curve", order=order, steps=steps, n=n, **measures(model, problems, traces))
    for bound in (0.01, 0.1, 1.0):
        traces = made(model, problems, f"entropy_bound({bound})", "greedy")
        say("curve", order=f"entropy_bound({bound})", n=n, **measures(model, problems, traces))
    for text in ("confidence(block=8)", "confidence(block=8,cache=true)", "confidence(remask=0.25)"):
        traces = made(model, problems, text, "greedy")
        say("curve", order=text, n=n, **measures(model, problems, traces))


def measures(model: MaskedText, problems: list[Problem], traces: list[UnmaskingTrace]) -> dict[str, float]:
    """Accuracy, forwards and AR-ness at k = 1."""
    right = [is_right(model, one, trace.tokens) for one, trace in zip(problems, traces, strict=True)]
    found = [ar_ness(trace.first_writes, (1,))[1] for trace in traces]
    return {
        "accuracy": mean(right),
        "forwards": mean(trace.forwards for trace in traces),
        "local": mean(one.local for one in found),
        "global": mean(one.whole for one in found),
    }


def temperature(model: MaskedText, n: int, samples: int = 8) -> None:
    """AR-ness and pass@k against the tokens' temperature, one token a forward."""
    problems = fresh_problems(n, 12)
    for degree in (0.2, 0.6, 1.0, 1.5):
        traces = made(model, problems, "confidence", f"temperature({degree})", samples=samples)
        each = [problem for problem in problems for _ in range(samples)]
        right = [is_right(model, one, trace.tokens) for one, trace in zip(each, traces, strict=True)]
        counts = np.array(right).reshape(n, samples).sum(1)
        passed = {f"pass@{k}": mean(1 - comb(samples - c, k) / comb(samples, k) for c in counts) for k in (1, 4, 8)}
        say("temperature", temperature=degree, n=n, samples=samples, **measures(model, each, traces), **passed)


def commit(model: MaskedText, n: int, risk: float = 0.05) -> None:
    """Forwards saved at a promised harm by two signals, and how often re-drawn calibrations break the promise."""
    problems = fresh_problems(n, 13)
    span = AnswerAfter(model.tokenizer, "The answer is", model.eos)
    signals: dict[str, Signal] = {"confidence": Confidence(span), "stability": Stability(span)}
    for order, (name, signal) in product(COMMITTED, signals.items()):
        traces = made(model, problems, order, "greedy", Commit(signal))
        table = commit_table(traces, lambda run, tokens: is_right(model, problems[run], _ended(model, tokens)))
        fitting, calibration, test = split(table, n // 5)
        found = calibrate_commit(fitting, calibration, test, "harm", risk, 0.9)
        grid, pool = Grid.of(fitting), table.select(np.arange(n // 5, n))
        verdict = check(
            pool, lambda t, g=grid: choose_threshold(t, g, "harm", risk, 0.9).value, "harm", risk, 0.9, runs=150
        )
        say(
            "commit",
            order=order,
            signal=name,
            n=n,
            saved=found.saved,
            failures=found.failures,
            runs=found.runs,
            upper=found.upper,
            accuracy=found.accuracy,
            committed_accuracy=found.committed_accuracy,
            forwards=[found.forwards, found.committed_forwards],
            threshold=found.threshold.value,
            redraws=verdict.draws,
            broken=verdict.violations,
            bound=verdict.bound,
            kept=verdict.holds,
        )


def _ended(model: MaskedText, tokens: list[int]) -> list[int]:
    end = next((at for at, token in enumerate(tokens) if token in model.eos), len(tokens))
    return tokens[:end]


def variance(model: MaskedText, n: int, draws: int = 24) -> None:
    """The variance of a whole answer's estimated log-probability, coupled masks against independent ones."""
    problems = fresh_problems(n, 14)
    answers = [trace.tokens for trace in made(model, problems, "confidence", "temperature(0.6)")]
    for pairs in (1, 2, 4):
        found = {}
        for name, kind in (("coupled", coupled_log_prob), ("independent", independent_log_prob)):
            totals = []
            for run, (problem, answer) in enumerate(zip(problems, answers, strict=True)):
                prompt = model.prompt(problem.question)
                loops = [
                    kind(prompt, answer, model.engine.mask, Keys(seed=run, run=draw), pairs=pairs)
                    for draw in range(draws)
                ]
                asked = [next(loop) for loop in loops]
                for _ in range(2 * pairs):
                    logits = model.engine.forward(asked)
                    asked = [loop.send(rows) for loop, rows in zip(loops, logits, strict=True)]
                for loop, rows in zip(loops, model.engine.forward(asked), strict=True):
                    try:
                        loop.send(rows)
                    except StopIteration as done:
                        totals.append(done.value.total)
            per = np.array(totals).reshape(n, draws)
            found[name] = (float(per.var(1, ddof=1).mean()), float(per.mean()))
        say(
            "variance",
            pairs=pairs,
            forwards=2 * pairs + 1,
            coupled=found["coupled"][0],
            independent=found["independent"][0],
            ratio=found["independent"][0] / found["coupled"][0],
            means=[found["coupled"][1], found["independent"][1]],
        )


def say(part: str, **values: object) -> None:
    """One JSON line."""
    rounded = {key: round(value, 4) if isinstance(value, float) else value for key, value in values.items()}
    print(json.dumps({"part": part, **rounded}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny-masked")
    parser.add_argument("--part", choices=("curves", "temperature", "commit", "variance"), required=True)
    parser.add_argument("-n", type=int, default=100)
    arguments = parser.parse_args()
    model = load_masked(arguments.model, threads=1)
    {"curves": curves, "temperature": temperature, "commit": commit, "variance": variance}[arguments.part](
        model, arguments.n
    )


if __name__ == "__main__":
    main()
