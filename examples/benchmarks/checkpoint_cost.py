"""What a rule that never exits costs on a cache with states: checkpoints, captured states and decisions.

    python examples/benchmarks/checkpoint_cost.py [--pairs 20] [--tokens 48] [--every 16] [--dtype bfloat16]

The model has the shape of LFM2-350M (16 blocks, 10 of them convolutions, width 1024) with random weights and a
vocabulary of 4096, which makes a step cheaper and so the shares larger. Its text is given: one cue word in every
`--every` tokens. Runs come in pairs, with the rule and without, in random order.

CPU time of this process, one thread. The median ratio, with its 95 % interval from order statistics over the pairs. The
last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from statistics import median
from typing import Any

import numpy as np
import torch
from overhead import interval
from transformers import Lfm2Config, Lfm2ForCausalLM

from reasonctl.backends.hf.engine import HFEngine
from reasonctl.backends.toy import ToyTokenizer
from reasonctl.controller import Boundary, Call, Controller, Cues, Decision, ExitRule, Keys, Policy, Row, Trace

VOCABULARY = 4096
WORDS = ToyTokenizer([" Wait", *(f" {i}" for i in range(1, VOCABULARY))])
ATTENTION = (2, 5, 8, 10, 12, 14)
"""Blocks of LFM2-350M with attention; the others are convolutions."""


class Given(Policy):
    """Writes a text in which every so-manieth token is a cue word."""

    def __init__(self, every: int) -> None:
        self.every = every

    def start(self) -> None:
        return None

    def step(self, state: None, row: Row) -> tuple[None, int]:
        place = len(row.tokens)
        row.logits.argmax()  # what drawing reads
        return None, 0 if place % self.every == 0 else 1 + place


class Never(ExitRule):
    """Reads the states at a cue, as a probe does, and never exits."""

    suffix = "\n\nSo"
    cues = Cues(["wait"])

    def __init__(self, width: int) -> None:
        self.weights = np.random.default_rng(0).normal(size=3 * width).astype(np.float32)

    def layers(self, depth: int) -> tuple[int, ...]:
        return (depth // 3, 2 * depth // 3, depth - 1)

    def decide(self, at: Boundary) -> Any:
        score = float(np.concatenate(list(at.hidden.values())) @ self.weights)
        return Decision(False, at.cue.name, at.cue.index, at.cue.first - at.prompt, score, np.inf)
        yield  # a generator that needs no forward of its own


def lfm2(dtype: torch.dtype) -> Lfm2ForCausalLM:
    """Random weights in the shape of LFM2-350M."""
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    config = Lfm2Config(
        vocab_size=VOCABULARY,
        hidden_size=1024,
        intermediate_size=6656,
        num_hidden_layers=16,
        num_attention_heads=16,
        num_key_value_heads=8,
        conv_L_cache=3,
        layer_types=["full_attention" if block in ATTENTION else "conv" for block in range(16)],
    )
    return Lfm2ForCausalLM(config).eval()


def seconds_of(engine: HFEngine, rule: ExitRule | None, tokens: int, every: int) -> tuple[float, int, int]:
    """(CPU seconds without the prompt's, cues, bytes of the checkpoint) of one run."""
    session, trace = engine.session(), Trace()
    # The first token is no cue: it is shown at once, and time begins there.
    call = Call(list(range(1, 63)), tokens, frozenset(), Keys(seed=0), Given(every))
    events = Controller(exit=rule).stream(session, FITTING, call, trace)
    next(events)
    begin = time.process_time()
    for _ in events:
        pass
    took, held = time.process_time() - begin, session.checkpoint_bytes
    session.close()
    return took, len(trace.decisions), held


class _Fitting(ToyTokenizer):
    """Writes any suffix as one token: nothing is ever forced here."""

    def encode(self, text: str) -> list[int]:
        return [1]


FITTING = _Fitting(WORDS.texts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--every", type=int, default=16, help="tokens between two cue words")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = lfm2(getattr(torch, options.dtype))
    engine, order = HFEngine(model), random.Random(0)
    rule = Never(model.config.hidden_size)
    ratios, plain, cues, held = [], [], 0, 0
    for pair in range(options.pairs + 1):
        took = {}
        for arm in order.sample([None, rule], 2):
            took[arm], seen, size = seconds_of(engine, arm, options.tokens, options.every)
            cues, held = max(cues, seen), max(held, size)
        if pair:  # the first one warms up
            ratios.append(took[rule] / took[None])
            plain.append(took[None] / (options.tokens - 1))
    low, high = interval(ratios)
    found = {
        "pairs": options.pairs,
        "tokens": options.tokens,
        "cues": cues,
        "checkpoint_bytes": held,
        "step_ms": round(1e3 * median(plain), 2),
        "ratio": round(median(ratios), 4),
        "low": round(low, 4),
        "high": round(high, 4),
    }
    print(f"a rule that never exits: {found['ratio']} times a run without it ({found['low']} to {found['high']})")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
