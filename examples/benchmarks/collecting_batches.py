"""Runs a second of collecting, one run at a time against many in shared forwards.

    python examples/benchmarks/collecting_batches.py MODEL --tasks reasoning-gym:leg_counting --batch 8

Rounds of both are interleaved in one process. Printed are the medians of their seconds, by the clock and of the
processor, and the ratio of each pair.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace
from typing import NamedTuple

import torch

from reasonctl.backends import load_model
from reasonctl.calibration.runs.collect import asked_runs
from reasonctl.calibration.runs.recipe import Recipe
from reasonctl.calibration.runs.worker import collect_runs
from reasonctl.calibration.tasks.sources import load_task
from reasonctl.controller.thinking import default_cues, read_template


class Taken(NamedTuple):
    """What one round took."""

    clock: float
    """Seconds."""
    processor: float
    """Seconds, over all threads."""
    tokens: int
    """Tokens of the runs, without trials."""


def main() -> None:
    args = parsed()
    model = load_model(args.model, threads=args.threads)
    found = read_template(model.template)
    recipe = Recipe(
        model=args.model,
        backend=None,
        threads=args.threads,
        markers=(found.markers.open, found.markers.close) if found.markers else None,
        cues=default_cues(found.markers),
        suffix=found.suffix,
        max_cues=200,
        layers=(1 / 3, 2 / 3, 1.0),
        policy="temperature(0.6)",
        draft="none",
        seed=0,
        max_new_tokens=args.max_new_tokens,
        answer_tokens=16,
    )
    asked = asked_runs(load_task(args.tasks).problems(args.runs, stream=0, prompt=model.prompt))
    arms = {batch: replace(recipe, batch=batch) for batch in (1, args.batch)}
    if args.dtype:
        for arm in arms.values():
            arm.load().library.to(getattr(torch, args.dtype))
    taken: dict[int, list[Taken]] = {batch: [] for batch in arms}
    for number in range(args.rounds + 1):
        for batch, arm in arms.items():
            clock, processor = time.perf_counter(), time.process_time()
            records = collect_runs(arm, asked if number else asked[:1])
            one = Taken(time.perf_counter() - clock, time.process_time() - processor, sum(r.tokens for r in records))
            if number:  # the first round only loads
                taken[batch].append(one)
                print(
                    f"batch {batch}: {one.clock:.1f} s, processor {one.processor:.1f} s, {one.tokens} tokens",
                    flush=True,
                )
    for name in ("clock", "processor"):
        pairs = zip(taken[1], taken[args.batch], strict=True)
        ratios = sorted(getattr(single, name) / getattr(many, name) for single, many in pairs)
        print(f"{name}: {statistics.median(ratios):.2f} times as fast in batches of {args.batch} {ratios}")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--tasks", required=True)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--max-new-tokens", type=int, default=120)
    parser.add_argument("--dtype", help="of a model on transformers, such as bfloat16")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
