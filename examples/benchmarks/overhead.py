"""What control costs when it does nothing: stock generate against an attached controller, greedy, same tokens.

    python examples/benchmarks/overhead.py MODEL [--exit] [--repeats 40] [--tokens 100]

MODEL is what `ctl` takes. --exit adds an exit rule that reads hidden states at cues and never fires. Pairs are
interleaved, CPU time of this process, one thread. The last line is one JSON object: the median over pairs of the ratio
stock / attached, with a 95 % interval for that median from order statistics.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable
from statistics import median

from scipy.stats import binom

from reasonctl.backends import Model, attach, load_model
from reasonctl.controller import Boundary, Controller, Cues, Decision
from reasonctl.probes import NeverExit

PROMPT = "Explain step by step how to add 48 and 37, then check the result twice."


class ReadsAndStays(NeverExit):
    """Reads three layers at every paragraph and sentence end, as a probe would, and goes on."""

    def layers(self, depth: int) -> tuple[int, ...]:
        return tuple(sorted({depth // 3, 2 * depth // 3, depth - 1}))

    def decide(self, at: Boundary):
        score = float(sum(state.sum() for state in at.hidden.values()))
        return Decision(False, at.cue.name, at.cue.index, at.cue.first - at.prompt, score, float("inf"))
        yield


def caller(model: Model, tokens: int) -> Callable[[], list[int]]:
    """Greedy generation of so many tokens through the library's own call."""
    prompt = model.prompt("48 a-9 b+6 c-3 d-4 e+2" if model.name == "tiny" else PROMPT)
    if model.backend == "llama.cpp":
        llm = model.library

        def llama() -> list[int]:
            llm.reset()
            out = []
            for token in llm.generate(prompt, temp=0.0, top_k=1):
                out.append(token)
                if len(out) == tokens:
                    break
            return out

        return llama
    import torch

    ids = torch.tensor([prompt])
    settings = {"do_sample": False, "max_new_tokens": tokens}
    model.library.generation_config.eos_token_id = None  # all of the tokens, whatever the model says
    return lambda: model.library.generate(ids, attention_mask=torch.ones_like(ids), **settings)[
        0, len(prompt) :
    ].tolist()


def interval(values: list[float], level: float = 0.95) -> tuple[float, float]:
    """For the median, from order statistics (exact, no assumption on the shape)."""
    ordered, n = sorted(values), len(values)
    low = int(binom.ppf((1 - level) / 2, n, 0.5))
    return ordered[max(low - 1, 0)], ordered[min(n - low, n - 1)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--exit", action="store_true")
    parser.add_argument("--backend", choices=["llama.cpp", "transformers"])
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--tokens", type=int, default=100)
    options = parser.parse_args()
    stock_model, our_model = (
        load_model(options.model, backend=options.backend, threads=1, hidden=False, context=1024) for _ in range(2)
    )
    rule = (
        ReadsAndStays(cues=Cues(["paragraph", "sentence", "wait", "hmm", "alternatively"]), suffix="\n\nAnswer:")
        if options.exit
        else None
    )
    library = our_model.library
    our_model.engine.close() if our_model.backend == "llama.cpp" else None
    stock_model.engine.close() if stock_model.backend == "llama.cpp" else None
    tokenizer = getattr(our_model.tokenizer, "tokenizer", None)
    handle = attach(library, Controller(exit=rule), tokenizer=tokenizer)
    stock, ours = caller(stock_model, options.tokens), caller(our_model, options.tokens)
    expected = stock()
    same = ours() == expected
    ratios = []
    order = random.Random(0)
    for _ in range(options.repeats):
        seconds = {}
        for name, call in order.sample([("stock", stock), ("ours", ours)], 2):
            start = time.process_time()
            call()
            seconds[name] = time.process_time() - start
        ratios.append(seconds["stock"] / seconds["ours"])
    low, high = interval(ratios)
    result = {
        "model": options.model,
        "backend": our_model.backend,
        "exit": options.exit,
        "repeats": options.repeats,
        "tokens": len(expected),
        "same_tokens": same,
        "our_runs": handle.runs,
        "cues_read": len(handle.trace.decisions) if handle.trace else 0,
        "ratio": round(median(ratios), 4),
        "low": round(low, 4),
        "high": round(high, 4),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
