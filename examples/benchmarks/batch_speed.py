"""What batches cost under a controller: stock generate, a controller with nothing to do, and one that acts; greedy.

    python examples/benchmarks/batch_speed.py MODEL [--batch 1 4 16] [--dtype bfloat16] [--pairs 10] [--tokens 64]

MODEL is what `ctl` takes, run on transformers. "acts" has an exit rule that reads hidden states at cues and never
fires. Rounds of the three are interleaved in random order; CPU time of this process, one thread. One line of JSON for
each batch: medians over rounds of stock / ours, with 95 % intervals from order statistics, and the tokens of our
acting call for each token of a batch of one.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from statistics import median
from typing import Any

import torch
from overhead import ReadsAndStays, interval

from reasonctl.backends import attach, load_model
from reasonctl.controller import Controller, Cues

WORDS = "Explain step by step how to add 48 and 37, then check the result twice. Wait, is it so?\n\n"
CUES = ["paragraph", "sentence", "wait", "hmm", "alternatively"]


def spread(values: list[float]) -> list[float]:
    """[low, median, high] with the 95 % interval for the median."""
    low, high = interval(values)
    return [round(value, 3) for value in (low, median(values), high)]


def seconds_of(model: Any, controller: Controller | None, tokenizer: Any, call: dict[str, Any]) -> float:
    """CPU seconds of one call."""
    handle = None if controller is None else attach(model, controller, tokenizer=tokenizer)
    try:
        start = time.process_time()
        model.generate(**call)
        return time.process_time() - start
    finally:
        if handle is not None:
            handle.detach()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--prompt", type=int, default=30, help="tokens of a prompt")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    loaded = load_model(options.model, backend="transformers", threads=1, hidden=False, context=2048)
    model, tokenizer = loaded.library.to(getattr(torch, options.dtype)), loaded.tokenizer.library
    model.generation_config.eos_token_id = None  # all of the tokens, whatever the model says
    words, order, single = loaded.prompt(WORDS * (options.prompt // 20 + 2)), random.Random(0), 0.0
    arms = {
        "stock": (None, None),
        "inert": (Controller(), None),
        "acts": (Controller(exit=ReadsAndStays(cues=Cues(CUES), suffix="\n\nAnswer:")), tokenizer),
    }
    for batch in options.batch:
        ids = torch.tensor([words[i : i + options.prompt] for i in range(batch)])
        call = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        call |= {"do_sample": False, "max_new_tokens": options.tokens}
        taken: dict[str, list[float]] = {name: [] for name in arms}
        for turn in range(options.pairs + 1):
            for name in order.sample(sorted(arms), len(arms)):
                seconds = seconds_of(model, *arms[name], call)
                taken[name] += [seconds] if turn else []  # the first round warms up
        single = single or median(taken["acts"]) / options.batch[0]
        result = {name: spread([a / b for a, b in zip(taken["stock"], taken[name], strict=True)]) for name in arms}
        shape = {"model": options.model, "dtype": options.dtype, "batch": batch, "prompt": options.prompt}
        times_single = round(batch * single / median(taken["acts"]), 2)
        print(json.dumps(shape | {"pairs": options.pairs, **result, "throughput": times_single}), flush=True)


if __name__ == "__main__":
    main()
