"""How much faster many runs are in shared forwards: tokens a second by the number of runs, bare and under a Scheduler.

    python examples/benchmarks/batch_curve.py MODEL [--tokens 40] [--rounds 6] [--threads 1]

MODEL is what `ctl` takes. All numbers of runs are measured in turn in every round. With one thread the clock is the CPU
time of this process, with more it is the wall's, which says little on a busy machine. The last line is one JSON object:
medians over the rounds, and the ratio to one run.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable
from statistics import median

from reasonctl.backends import Model, load_model
from reasonctl.controller import ROOT, Call, Controller, Decode, Emitted, Greedy, Keys, Scheduler, Trace

RUNS = (1, 2, 4, 8, 16)
PROMPT = 40
"""Tokens of every prompt."""

Clock = Callable[[], float]


def bare(model: Model, prompt: list[int], runs: int, tokens: int, clock: Clock) -> float:
    """Tokens a second of forwards alone, one row of each run, and the argmax of every row."""
    engine = model.engine
    sessions = [engine.session() for _ in range(runs)]
    engine.forward([Decode(session, prompt) for session in sessions])
    start = clock()
    for i in range(tokens):
        for step in engine.forward([Decode(session, [prompt[i % PROMPT]]) for session in sessions]):
            step.logits(ROOT).argmax()
    seconds = clock() - start
    for session in sessions:
        session.close()
    return runs * tokens / seconds


def scheduled(model: Model, prompt: list[int], runs: int, tokens: int, clock: Clock) -> float:
    """Tokens a second of greedy runs under a scheduler, prompts left out."""
    scheduler, controller = Scheduler(), Controller()
    for run in range(runs):
        call = Call(prompt, tokens + 1, frozenset(), Keys(seed=1, run=run), Greedy())
        needs = controller.needs(model.engine, model.tokenizer, call)
        scheduler.add(run, controller.run(model.engine, model.tokenizer, call, Trace()), needs)
    scheduler.step()  # feeds the prompts
    start = clock()
    emitted = sum(isinstance(output, Emitted) for output in scheduler)
    return (emitted - runs) / (clock() - start)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    context = PROMPT + options.tokens + 2
    model = load_model(options.model, threads=options.threads, batch=max(RUNS), context=context, hidden=False)
    clock = time.process_time if options.threads == 1 else time.perf_counter
    text = model.tokenizer.encode("The quick brown fox jumps over the lazy dog. " * PROMPT)
    rates: dict[str, dict[int, list[float]]] = {"bare": defaultdict(list), "scheduled": defaultdict(list)}
    for turn in range(options.rounds):
        for runs in RUNS if turn % 2 == 0 else RUNS[::-1]:
            for name, measured in (("bare", bare), ("scheduled", scheduled)):
                rates[name][runs].append(measured(model, text[:PROMPT], runs, options.tokens, clock))
                print(f"{name}, {runs} runs: {rates[name][runs][-1]:.1f} tokens/s", flush=True)
    found = {name: {runs: round(median(by[runs]), 1) for runs in RUNS} for name, by in rates.items()}
    ratios = {
        name: {runs: round(median(a / b for a, b in zip(by[runs], by[1], strict=True)), 2) for runs in RUNS}
        for name, by in rates.items()
    }
    print(json.dumps({"tokens_per_second": found, "ratio": ratios}))


if __name__ == "__main__":
    main()
