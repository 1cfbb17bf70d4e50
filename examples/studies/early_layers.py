"""Whether a model's early layers would pay as its own drafter: acceptance and cost of stopping after k blocks.

    python examples/studies/early_layers.py hf:qwen2.5-coder-0.5b.gguf [--dtype bfloat16] [--tokens 60] [--prompts 2]

The draft is the argmax of the final norm and head on block k's output (the logit lens), on the target's own greedy
text; its cost is a forward through the first k blocks, norm and head, in CPU seconds of this process (run it with
OMP_NUM_THREADS=1). One JSON object per line goes to --out.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from drafting import machine, opened
from triforce import ROWS, forward_times

from reasonctl.backends import Model
from reasonctl.calibration.advice.draft_model import written
from reasonctl.calibration.tasks.draft_prompts import DRAFT_PROMPTS
from reasonctl.controller import ROOT, Decode, Draft, Greedy
from reasonctl.controller.drafting import best_shape
from reasonctl.controller.drafting.planning import CostCurve

CHUNK, REPEATS = 32, 15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"])
    parser.add_argument("--tokens", type=int, default=60)
    parser.add_argument("--prompts", type=int, default=2, help="of each kind")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--out", type=Path, default=Path("early_layers.jsonl"))
    a = parser.parse_args()
    model = opened(a.model, a.dtype, a.threads)
    assert model.backend == "transformers", "this needs transformers: hf:FILE.gguf"
    depths = sorted({max(1, round(model.depth * k / 8)) for k in (1, 2, 3, 4, 6, 7)})
    prompts = [model.prompt(question) for kind in DRAFT_PROMPTS.values() for question in kind[: a.prompts]]
    texts = written(model, prompts, Greedy(), a.tokens, 0)
    curve = CostCurve({64: forward_times(at_64(model, prompts[0]), prompts[0][:1])})
    rates = acceptance(model, prompts, texts, depths)
    with a.out.open("a", encoding="utf-8") as file:
        for k in depths:
            own = early_seconds(model, prompts[0], k)
            shape, rate = best_shape(
                (min(rates[k], 0.999),),
                lambda n, own=own: curve.at(n) - (own if n > 1 else 0.0),
                own,
                sizes=ROWS[1:],
                layers=ROWS[-1],
                leaves=1,
            )
            row = {
                "model": a.model,
                "dtype": a.dtype,
                "layers": k,
                "of": model.depth,
                "acceptance": rates[k],
                "positions": sum(map(len, texts)),
                "cost": own / curve.at(1),
                "rows": 1 + len(shape.parents),
                "speed_up": rate * curve.at(1),
                "curve": curve.seconds[64],
            }
            file.write(json.dumps(row | {"machine": machine()}) + "\n")
            print(json.dumps(row))


def acceptance(model: Model, prompts: Any, texts: Any, depths: list[int]) -> dict[int, float]:
    """Share of the target's own greedy tokens that each early exit would have drafted."""
    decoder, head = model.library.get_decoder(), model.library.get_output_embeddings()
    hits, count = dict.fromkeys(depths, 0), 0
    for prompt, text in zip(prompts, texts, strict=True):
        session, pending = model.engine.session(), list(prompt)
        for start in range(0, len(text), CHUNK):
            chunk = list(text[start : start + CHUNK])
            draft = Draft.chain(chunk[:-1])
            layers = tuple(k - 1 for k in depths)
            (step,) = model.engine.forward((Decode(session, pending, draft, layers),))
            for k in depths:
                states = torch.stack([torch.from_numpy(step.hidden(n, k - 1)) for n in range(ROOT, len(draft))])
                with torch.inference_mode():
                    guesses = head(decoder.norm(states.to(model.library.dtype))).argmax(-1).tolist()
                hits[k] += sum(guess == token for guess, token in zip(guesses, chunk, strict=True))
            count += len(chunk)
            session.keep(range(len(draft)))
            pending = chunk[-1:]
        session.close()
    return {k: hits[k] / count for k in depths}


def at_64(model: Model, prompt: list[int]) -> Any:
    session = model.engine.session()
    model.engine.forward([Decode(session, (prompt * (1 + 64 // len(prompt)))[:64])])
    return session


def early_seconds(model: Model, prompt: list[int], k: int) -> float:
    """Median CPU seconds of one row through the first k blocks, norm and head."""
    library, decoder = model.library, model.library.get_decoder()
    config, blocks = decoder.config, decoder.layers
    fed, taken = (prompt * (1 + 64 // len(prompt)))[:64], []
    config.num_hidden_layers, decoder.layers = k, blocks[:k]
    try:
        with torch.inference_mode():
            cache = library(input_ids=torch.tensor([fed]), use_cache=True, logits_to_keep=1).past_key_values
            for _ in range(REPEATS):
                start = time.process_time()
                library(input_ids=torch.tensor([fed[-1:]]), past_key_values=cache, use_cache=True)
                taken.append(time.process_time() - start)
                cache.crop(-1)
    finally:
        config.num_hidden_layers, decoder.layers = len(blocks), blocks
    return median(taken)


if __name__ == "__main__":
    main()
