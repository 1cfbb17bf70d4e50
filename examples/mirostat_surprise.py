"""Does mirostat hold the surprise it is told to? Its mean over one long text, beside llama.cpp's own feedback.

    python examples/mirostat_surprise.py MODEL.gguf [--tokens 2000] [--tau 2 3 4 5]

The surprise is that of the drawn token under the model's own law, in bits, before any truncation. One thread. The last
line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import math

import numpy as np
from reasonctl.backends import load_model
from reasonctl.controller import Call, Chain, Controller, Keys, Mirostat, MirostatV2, Scores

PROMPT = "Once upon a time, in a town by the sea,"
WARM_UP = 100
"""First tokens left out: mu starts at twice tau."""


class Surprised:
    """A policy that notes how surprising the model itself found each token."""

    def __init__(self, policy: Chain) -> None:
        self.policy, self.bits = policy, []

    def start(self):
        return self.policy.start()

    def step(self, state, row):
        state, token = self.policy.step(state, row)
        scores = Scores(row.logits.copy())
        self.bits.append((math.log(scores.mass) - float(scores.shifted[token])) / math.log(2))
        return state, token


def mean_surprise(model, stage, tokens: int) -> dict[str, float]:
    """Of `tokens` tokens after the warm-up; the end of sequence doesn't end the text."""
    policy = Surprised(Chain(stage))
    prompt = model.tokenizer.encode(PROMPT)
    call = Call(prompt, tokens + WARM_UP, frozenset(), Keys(seed=1), policy)
    session = model.engine.session()
    for _ in Controller().stream(session, model.tokenizer, call):
        pass
    session.close()
    bits = np.array(policy.bits[WARM_UP:])
    return {"mean": round(float(bits.mean()), 4), "sd": round(float(bits.std()), 3), "tokens": len(bits)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--tokens", type=int, default=2000)
    parser.add_argument("--tau", type=float, nargs="+", default=[2.0, 3.0, 4.0, 5.0])
    options = parser.parse_args()
    model = load_model(options.model, context=options.tokens + 200, threads=1, hidden=False)
    rows = []
    for feedback in ("model", "llama"):
        for kind in (MirostatV2, Mirostat):
            for tau in options.tau:
                found = mean_surprise(model, kind(tau=tau, feedback=feedback), options.tokens)
                off = found["mean"] / tau - 1
                rows.append(
                    {"policy": str(kind(tau=tau, feedback=feedback)), "tau": tau, "off": round(off, 4), **found}
                )
                print(f"{rows[-1]['policy']:44} mean {found['mean']:.3f} bits  off by {off:+.1%}", flush=True)
    print(json.dumps({"model": model.name, "prompt": PROMPT, "warm_up": WARM_UP, "rows": rows}))


if __name__ == "__main__":
    main()
