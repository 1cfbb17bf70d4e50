"""What does cutting rejected tokens off a recurrent state save, against restoring a checkpoint and feeding again?

    python examples/benchmarks/past_states.py MODEL.gguf [--draft 4] [--rounds 12]

Two engines over the same file, with past states and without; each round runs a few steps on both, in a random order.
Every draft is rejected in part. Seconds are this thread's, so one thread is used. Printed are medians, and the median
ratio of the rounds with its 95 % interval (bootstrap).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import numpy as np

from reasonctl.backends import load_model
from reasonctl.controller import Decode, Draft, Engine

STEPS = 12
CONTEXT = 32


def seconds(engine: Engine, kept: Sequence[int], size: int) -> float:
    """Of a step, on average; size: drafted tokens, 0 = plain steps. kept: accepted ones of each step."""
    rng, session = np.random.default_rng(0), engine.session()
    engine.forward((Decode(session, [5] * CONTEXT),))
    start = 0.0
    for i, n in enumerate((0, *kept)):
        if i == 1:  # the first step warms up
            start = time.thread_time()
        tokens = rng.integers(4, 400, 1 + size).tolist()
        engine.forward((Decode(session, tokens[:1], Draft.chain(tokens[1:])),))
        session.keep(range(min(n, size)))
    taken = time.thread_time() - start
    session.close()
    return taken / len(kept)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--draft", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=12)
    given = parser.parse_args()
    engines = [load_model(given.model, threads=1, hidden=False, drafted=n).engine for n in (0, given.draft)]
    if engines[1].cuts < given.draft:
        parser.error(f"{given.model}: llama.cpp keeps {engines[1].cuts} past states of it")
    rng = np.random.default_rng(0)
    for size in (0, given.draft):
        taken: list[list[float]] = [[], []]
        for _ in range(given.rounds):
            kept = rng.integers(0, max(1, size), STEPS).tolist()
            for arm in rng.permutation(2):
                taken[arm].append(seconds(engines[arm], kept, size))
        ratios = np.array(taken[1]) / np.array(taken[0])
        drawn = np.median(rng.choice(ratios, (2000, len(ratios))), axis=1)
        low, high = np.quantile(drawn, [0.025, 0.975])
        without, with_states = (1000 * np.median(arm) for arm in taken)
        what = f"drafts of {size}" if size else "plain steps"
        print(f"{what}: {without:.2f} ms restored, {with_states:.2f} ms cut; {np.median(ratios):.3f} ", end="")
        print(f"({low:.3f} to {high:.3f})")


if __name__ == "__main__":
    main()
