"""Does mirostat hold its target surprise? Its mean over one long text, next to llama.cpp's own samplers.

    python examples/studies/mirostat_surprise.py MODEL.gguf [--tokens 2000] [--tau 2 3 4 5] [--rows v2 v2-native ...]

Rows: v1 and v2 feed the surprise under the model's distribution back, as the authors do; v1-llama and v2-llama the
surprise after truncation, as llama.cpp does; v1-native and v2-native are llama.cpp's own samplers, with a generator of
their own. The table shows the surprise of the drawn token under the model's own distribution, in bits, before any
truncation. One thread; two processes can share the rows or the taus. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from llama_cpp import llama_cpp as C

from reasonctl.backends import load_model
from reasonctl.controller import Call, Candidates, Chain, Controller, Keys, Mirostat, MirostatV2, Policy, PolicyWrapper

PROMPT = "Once upon a time, in a town by the sea,"
WARM_UP = 100
"""First tokens left out: mu starts at twice tau."""


ETA, SEED, RATIOS = 0.1, 1, 100
CANDIDATE = np.dtype([("id", np.intc), ("logit", np.single), ("p", np.single)], align=True)


class Native(Policy):
    """One of llama.cpp's mirostat samplers as a policy. Its state stands outside of the run: for plain runs only."""

    def __init__(self, sampler: Any, name: str) -> None:
        self.sampler, self.name = sampler, name

    def start(self) -> None:
        return None

    def step(self, state: None, row: Any) -> tuple[None, int]:
        logits = row.logits
        data = np.zeros(len(logits), dtype=CANDIDATE)
        data["id"], data["logit"] = np.arange(len(logits)), logits
        pointer = ctypes.cast(data.ctypes.data, ctypes.POINTER(C.llama_token_data))
        array = C.llama_token_data_array(data=pointer, size=len(data), selected=-1, sorted=False)
        C.llama_sampler_apply(self.sampler, ctypes.byref(array))
        token = int(array.data[array.selected].id)
        C.llama_sampler_accept(self.sampler, token)
        return None, token

    def __str__(self) -> str:
        return self.name


def native_v1(tau: float, vocabulary: int) -> Native:
    sampler = C.llama_sampler_init_mirostat(vocabulary, SEED, tau, ETA, RATIOS)
    return Native(sampler, f"llama.cpp's mirostat(tau={tau:g})")


def native_v2(tau: float, vocabulary: int) -> Native:
    return Native(C.llama_sampler_init_mirostat_v2(SEED, tau, ETA), f"llama.cpp's mirostat_v2(tau={tau:g})")


ROWS: dict[str, Callable[[float, int], Any]] = {
    "v2": lambda tau, n: Chain(MirostatV2(tau, ETA)),
    "v1": lambda tau, n: Chain(Mirostat(tau, ETA)),
    "v2-llama": lambda tau, n: Chain(MirostatV2(tau, ETA, "llama")),
    "v1-llama": lambda tau, n: Chain(Mirostat(tau, ETA, "llama")),
    "v2-native": native_v2,
    "v1-native": native_v1,
}


class Surprised(PolicyWrapper):
    """A policy that notes how surprising the model itself found each token."""

    def __init__(self, policy: Policy) -> None:
        super().__init__(policy)
        self.bits: list[float] = []

    def step(self, state, row):
        candidates = Candidates(row.logits.copy())
        state, token = self.inner.step(state, row)
        self.bits.append((math.log(candidates.mass) - float(candidates.shifted[token])) / math.log(2))
        return state, token


def mean_surprise(model, policy, tokens: int) -> dict[str, float]:
    """Of `tokens` tokens after the warm-up; the end of sequence doesn't end the text."""
    surprised = Surprised(policy)
    prompt = model.tokenizer.encode(PROMPT)
    call = Call(prompt, tokens + WARM_UP, frozenset(), Keys(seed=SEED), surprised)
    session = model.engine.session()
    for _ in Controller().stream(session, model.tokenizer, call):
        pass
    session.close()
    bits = np.array(surprised.bits[WARM_UP:])
    return {"mean": round(float(bits.mean()), 4), "sd": round(float(bits.std()), 3), "tokens": len(bits)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--tokens", type=int, default=2000)
    parser.add_argument("--tau", type=float, nargs="+", default=[2.0, 3.0, 4.0, 5.0])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    options = parser.parse_args()
    model = load_model(options.model, context=options.tokens + 200, threads=1, hidden=False)
    session = model.engine.session()
    size, rows = session.can.vocabulary, []
    session.close()
    for name in options.rows:
        for tau in options.tau:
            policy = ROWS[name](tau, size)
            found = mean_surprise(model, policy, options.tokens)
            off = found["mean"] / tau - 1
            rows.append({"row": name, "policy": str(policy), "tau": tau, "off": round(off, 4), **found})
            print(f"{str(policy):44} mean {found['mean']:.3f} bits  off by {off:+.1%}", flush=True)
    print(json.dumps({"model": model.name, "prompt": PROMPT, "warm_up": WARM_UP, "rows": rows}))


if __name__ == "__main__":
    main()
