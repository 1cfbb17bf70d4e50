"""What a policy costs per token, against the libraries' own: CPU time of one row, interleaved, as ratios.

    python examples/benchmarks/policy_cost.py [--model MODEL.gguf] [--repeats 60]

Rows are made up, at 49,152 and 151,936 tokens; with a GGUF model also 20 rows of a text that it writes
at temperature 1, sure ones and unsure ones, and the share of its decode step. Ours: penalties, EDT, top-H and the
draw. transformers: min-p, top-p and its draw. llama.cpp: its native chain of penalties, top-p, min-p, temperature and
draw. One thread; medians of CPU time over interleaved repetitions, and the mean of the rows' medians. The last line is
one JSON object.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import time
from collections.abc import Callable
from statistics import mean, median

import numpy as np
import torch
from llama_cpp import llama_cpp as C
from transformers import MinPLogitsWarper, TopPLogitsWarper

from reasonctl.backends import load_model
from reasonctl.controller import ROOT, Decode, Keys, Row, Sampling, parse_policy

SIZES = (49_152, 151_936)
ROWS, APART = 20, 5
OURS = {
    "ours, EDT + top-H + penalties": "penalties(repeat=1.1,last_n=64) | edt(t0=0.8,theta=0.4) | top_h(0.4)",
    "ours, min-p + top-p": "min_p(0.05) | top_p(0.95)",
}


Rows = list[tuple[np.ndarray, list[int]]]


class Plain:
    """A Step that holds one row."""

    def __init__(self, logits: np.ndarray) -> None:
        self._logits = logits

    def logits(self, node: int) -> np.ndarray:
        return self._logits


def made_up(size: int, seed: int) -> np.ndarray:
    """A row like a model's: a bulk of noise and a falling head."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(-4.0, 2.0, size)
    logits[rng.integers(size, size=300)] += rng.gamma(2.0, 3.0, 300)
    return logits.astype(np.float32)


def transformers_step(logits: np.ndarray) -> Callable[[], object]:
    """Its processors for min-p and top-p, and its draw."""
    row, warpers = torch.from_numpy(logits)[None], (TopPLogitsWarper(0.95), MinPLogitsWarper(0.05))

    def step() -> object:
        scores = row
        for warper in warpers:
            scores = warper(None, scores)
        return torch.multinomial(scores.softmax(-1), 1)

    return step


def llama_step(logits: np.ndarray, recent: list[int]) -> Callable[[], object]:
    """llama.cpp's own chain; filling its array of candidates is part of a sampling step there too."""
    chain = C.llama_sampler_chain_init(C.llama_sampler_chain_default_params())
    for sampler in (
        C.llama_sampler_init_penalties(len(logits), 64, 1.1, 0.0, 0.0),
        C.llama_sampler_init_top_p(0.95, 1),
        C.llama_sampler_init_min_p(0.05, 1),
        C.llama_sampler_init_temp(0.8),
        C.llama_sampler_init_dist(1),
    ):
        C.llama_sampler_chain_add(chain, sampler)
    for token in recent:
        C.llama_sampler_accept(chain, token)
    kind = np.dtype([("id", np.intc), ("logit", np.single), ("p", np.single)], align=True)
    data, ids = np.zeros(len(logits), dtype=kind), np.arange(len(logits), dtype=np.intc)

    def step() -> object:
        data["id"], data["logit"] = ids, logits
        pointer = ctypes.cast(data.ctypes.data, ctypes.POINTER(C.llama_token_data))
        array = C.llama_token_data_array(data=pointer, size=len(data), selected=-1, sorted=False)
        C.llama_sampler_apply(chain, ctypes.byref(array))
        return array.selected

    return step


def our_step(text: str, logits: np.ndarray, recent: list[int]) -> Callable[[], object]:
    policy, row = parse_policy(text), Row(Plain(logits), ROOT, recent, "think", Keys(seed=0))
    return lambda: policy.step(policy.start(), row)


def times(steps: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """CPU microseconds of each, interleaved."""
    found: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(repeats + 3):
        for name, step in steps.items():
            start = time.process_time()
            step()
            if turn >= 3:
                found[name].append(1e6 * (time.process_time() - start))
    return found


def real_rows(path: str) -> tuple[list[tuple[np.ndarray, list[int]]], float]:
    """([(logits, recent tokens)] along a text, median CPU microseconds of a decode step) of a model."""
    model = load_model(path, context=512, threads=1, hidden=False)
    session = model.engine.session()
    tokens = model.tokenizer.encode("Explain step by step how to add 48 and 37, then check the result twice.")
    pending, spent, rows, policy = list(tokens), list[float](), [], Sampling()
    for _ in range(ROWS * APART):
        start = time.process_time()
        (step,) = model.engine.forward((Decode(session, pending),))
        logits = step.logits(ROOT).copy()
        spent.append(1e6 * (time.process_time() - start))
        rows.append((logits, tokens[-64:]))
        pending = [policy.step(None, Row(Plain(logits), ROOT, tokens, "think", Keys(seed=0)))[1]]
        tokens.append(pending[0])
    session.close()
    return rows[::APART], median(spent[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--repeats", type=int, default=60)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cases: list[tuple[str, Rows, float | None]] = [
        (f"made up, {size}", [(made_up(size, 1), list(range(64)))], None) for size in SIZES
    ]
    if options.model:
        rows, decode = real_rows(options.model)
        cases.append((f"{options.model}, {len(rows)} rows of {len(rows[0][0])}", rows, decode))
    results = []
    for name, rows, decode in cases:
        every: dict[str, list[float]] = {}
        for logits, recent in rows:
            steps = {label: our_step(text, logits, recent) for label, text in OURS.items()}
            steps |= {"transformers": transformers_step(logits), "llama.cpp": llama_step(logits, recent)}
            for label, found in times(steps, max(options.repeats // len(rows), 5)).items():
                every.setdefault(label, []).append(median(found))
        spent = {label: round(mean(found), 1) for label, found in every.items()}
        ours = spent[next(iter(OURS))]
        ratios = {f"{other} / ours": round(spent[other] / ours, 2) for other in ("transformers", "llama.cpp")}
        share = {"share of a decode step": round(ours / decode, 4)} if decode else {}
        results.append({"row": name, "microseconds": spent, **ratios, **share})
        print(json.dumps(results[-1], indent=1))
    print(json.dumps({"repeats": options.repeats, "rows": results}))


if __name__ == "__main__":
    main()
