"""What batches cost under a controller: stock generate against a controller with nothing to do, and one that acts.

    python examples/benchmarks/batch_speed.py MODEL [--batch 1 4 16] [--prompt 30 600] [--dtype bfloat16] [--sampled]

MODEL is what `ctl` takes, run on transformers: `tiny`, a folder, or `hf:FILE.gguf`. "inert" has nothing to do;
"follows" (--follows) knows where the model thinks, so that thinking can be closed on request; "acts" (--acts) has an
exit rule that reads hidden states at cues and never fires. A cell is a batch size and a length of prompts. Its arms are
measured in turn, in random order, --pairs times after one turn that warms up: CPU time of this process, one thread.
--seconds ends a cell early, after 10 turns at least.

Each cell is one line of JSON: geometric means of stock / ours, with 95 % bootstrap intervals over the turns, and
medians. The table at the end is made of the same numbers; --table FILE prints it from lines that were saved.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from overhead import ReadsAndStays

from reasonctl.backends import attach, load_model
from reasonctl.controller import Controller, Cues, Markers, Thinking

WORDS = "Explain step by step how to add 48 and 37, then check the result twice. Wait, is it so?\n\n"
CUES = ["paragraph", "sentence", "wait", "hmm", "alternatively"]
LEAST = 10
"""Fewest turns of a cell."""


def spread(stock: list[float], ours: list[float]) -> dict[str, float]:
    """The ratio of paired times: its geometric mean with a 95 % bootstrap interval, and its median."""
    logs = np.log(stock) - np.log(ours)
    means = np.random.default_rng(0).choice(logs, (10_000, len(logs))).mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    found = {"low": low, "mean": logs.mean(), "high": high, "median": median(logs)}
    return {name: round(float(np.exp(value)), 3) for name, value in found.items()}


def seconds_of(model: Any, controller: Controller | None, tokenizer: Any, call: dict[str, Any]) -> float:
    """CPU seconds of one call."""
    handle = None if controller is None else attach(model, controller, tokenizer=tokenizer)
    gc.collect()  # what attaching left is no part of the call
    try:
        start = time.process_time()
        model.generate(**call)
        return time.process_time() - start
    finally:
        if handle is not None:
            handle.detach()


def measure(model: Any, arms: dict[str, Any], call: dict[str, Any], pairs: int, most: float) -> dict[str, list[float]]:
    """Seconds of each arm, by turn."""
    taken: dict[str, list[float]] = {name: [] for name in arms}
    order, start = random.Random(0), time.monotonic()
    for turn in range(pairs + 1):
        for name in order.sample(sorted(arms), len(arms)):
            seconds = seconds_of(model, *arms[name], call)
            taken[name] += [seconds] if turn else []  # the first turn warms up
        if turn >= LEAST and time.monotonic() - start > most:
            break
    return taken


def table(cells: list[dict[str, Any]]) -> str:
    """Rows: model, precision, way of choosing tokens and arm; columns: batch and prompt."""
    shapes = sorted({(cell["prompt"], cell["batch"]) for cell in cells})
    kinds = list(dict.fromkeys((c["model"], c["dtype"], "sampled" if c["sampled"] else "greedy") for c in cells))
    by = {(c["model"], c["dtype"], "sampled" if c["sampled"] else "greedy", c["prompt"], c["batch"]): c for c in cells}
    lines = ["| stock / ours | " + " | ".join(f"{batch} of {prompt}" for prompt, batch in shapes) + " |"]
    lines.append("|---" * (len(shapes) + 1) + "|")
    for arm in ("inert", "follows", "acts"):
        for kind in kinds:
            found = [by.get((*kind, *shape), {}).get(arm) for shape in shapes]
            if any(found):
                shown = [f"{c['mean']:.2f} ({c['low']:.2f} to {c['high']:.2f})" if c else "" for c in found]
                lines.append(f"| {', '.join((*kind, arm))} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    options = parsed()
    if options.table:
        print(table([json.loads(line) for line in Path(options.model).read_text().splitlines()]))
        return
    loaded = load_model(options.model, backend="transformers", threads=1, hidden=False, context=2048)
    model, tokenizer = loaded.library.to(getattr(torch, options.dtype)), loaded.tokenizer.library
    model.generation_config.eos_token_id = None  # all of the tokens, whatever the model says
    arms: dict[str, Any] = {"stock": (None, None), "inert": (Controller(), None)}
    if options.follows:
        arms["follows"] = (Controller(thinking=Thinking(Markers("<think>", "</think>"), "</think>\n\n")), tokenizer)
    if options.acts:
        arms["acts"] = (Controller(exit=ReadsAndStays(cues=Cues(CUES), suffix="\n\nAnswer:")), tokenizer)
    cells = []
    for prompt in options.prompt:
        words = loaded.prompt(WORDS * (prompt // 15 + 4))
        for batch in options.batch:
            ids = torch.tensor([words[i : i + prompt] for i in range(batch)])
            call = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "max_new_tokens": options.tokens}
            call |= {"do_sample": True, "temperature": 0.8, "top_p": 0.95} if options.sampled else {"do_sample": False}
            taken = measure(model, arms, call, options.pairs, options.seconds)
            cell = {"model": options.model.rpartition("/")[2].removesuffix(".gguf"), "dtype": options.dtype}
            cell |= {"sampled": options.sampled, "batch": batch, "prompt": prompt, "tokens": options.tokens}
            cell |= {"pairs": len(taken["stock"]), "stock_seconds": round(median(taken["stock"]), 4)}
            cells.append(cell | {name: spread(taken["stock"], taken[name]) for name in arms if name != "stock"})
            print(json.dumps(cells[-1]), flush=True)
    print(table(cells))


def parsed() -> argparse.Namespace:
    """The command's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--prompt", type=int, nargs="+", default=[30], help="tokens of a prompt")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=LEAST)
    parser.add_argument("--seconds", type=float, default=1e9, help="of a cell; 10 turns at least")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--sampled", action="store_true")
    parser.add_argument("--follows", action="store_true")
    parser.add_argument("--acts", action="store_true")
    parser.add_argument("--table", action="store_true", help="MODEL is a file of lines that were saved")
    return parser.parse_args()


if __name__ == "__main__":
    main()
