"""The tables of docs/drafting.md: speed against the libraries' own drafting, acceptance, expected and measured steps.

    python examples/benchmarks/drafting.py speed MODEL [--ngrams FILE] [--dtype bfloat16] [--tokens 96] [--rounds 2]
    python examples/benchmarks/drafting.py speed MODEL --draft-model SMALLER [SMALLER.gguf]
        [--dtype bfloat16] [--tokens 64]
    python examples/benchmarks/drafting.py acceptance MODEL --draft-model SMALLER [--tokens 60] [--figure FILE.svg]
    python examples/benchmarks/drafting.py steps MODEL --draft-model SMALLER [--tokens 64]
    python examples/benchmarks/drafting.py triforce MODEL [--context 8000] [--budget 512]       (see triforce.py)

MODEL is what `ctl` takes. Greedy in `speed`; arms interleaved; every arm has the same prompts (calibration/kinds.py).
--ngrams: a database of what the model wrote for other prompts (drafting_texts.py). Where an arm's tokens part from
plain decoding's, `splits` has the difference of the two tokens' logits there: how near a tie it was.
One JSON object per line goes to --out; keep that file next to the table that is made from it.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

from drafting_trees import acceptance, steps
from triforce import triforce

from reasonctl.backends import Model, attach, load_model
from reasonctl.calibration.tasks.draft_prompts import DRAFT_PROMPTS
from reasonctl.controller import ROOT, Controller, Decode, Drafter, Hierarchy, ModelDrafter, PromptLookup
from reasonctl.controller.drafting import NgramTable, load_table

LOOKUPS = (5, 10, 20, 40)
LONGEST = 3
"""Tokens of the n-grams that transformers' lookup matches at most: 3 is at least as good as its default of 2 here."""
ASSISTED = (3, 5, 10)

Arm = Callable[[list[int], int], list[int]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "acceptance", "steps", "triforce"])
    parser.add_argument("model")
    parser.add_argument("--draft-model", nargs="*", default=[], help="each in the format that its name says")
    parser.add_argument("--ngrams", type=Path, help="a database of the model's own texts")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"])
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=4, help="of each kind")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--only", nargs="*", help="arms of `speed` whose names begin so, besides plain")
    parser.add_argument("--context", type=int, default=8000, help="most tokens of context, for `triforce`")
    parser.add_argument("--budget", type=int, default=512, help="tokens that its middle level reads")
    parser.add_argument("--figure", type=Path, help="of `acceptance`")
    parser.add_argument("--out", type=Path, default=Path("drafting.jsonl"))
    a = parser.parse_args()
    target = opened(a.model, a.dtype, a.threads)
    small = [opened(name, a.dtype, a.threads) for name in a.draft_model]
    record = {"what": a.what, "model": a.model, "dtype": a.dtype, "draft": a.draft_model, "machine": machine()}
    found = {"speed": speed, "acceptance": acceptance, "steps": steps, "triforce": triforce}[a.what](target, small, a)
    with a.out.open("a", encoding="utf-8") as file:
        for row in found:
            line = json.dumps(record | row)
            file.write(line + "\n")
            file.flush()
            print(json.dumps(row))


def machine() -> dict[str, Any]:
    from importlib.metadata import version

    names = ("reasonctl", "torch", "transformers", "llama-cpp-python")
    return {"processor": platform.processor(), "python": platform.python_version()} | {n: version(n) for n in names}


def opened(name: str, dtype: str | None, threads: int | None) -> Model:
    if dtype is None or (name.endswith(".gguf") and not name.startswith("hf:")):
        return load_model(name, threads=threads, hidden=False)
    import torch

    from reasonctl.backends import tiny_folder
    from reasonctl.backends.hf.load import load_transformers

    if threads is not None:
        torch.set_num_threads(threads)
    return load_transformers(str(tiny_folder()) if name == "tiny" else name, dtype=getattr(torch, dtype))


# speed


def speed(target: Model, small: list[Model], a: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Median tokens per second of each arm on each kind, and its ratio to plain."""
    own = drafters(small, load_table(a.ngrams) if a.ngrams else None)
    arms = transformers_arms(target, small, own) if target.backend == "transformers" else llama_arms(target, own)
    if a.only is not None:
        arms = {n: arm for n, arm in arms.items() if n == "plain" or n.startswith(tuple(a.only))}
    for arm in arms.values():
        arm(target.prompt("Hello."), 8)  # whatever happens at first use happens here
    for kind, questions in DRAFT_PROMPTS.items():
        prompts = [target.prompt(question) for question in questions[: a.prompts]]
        rates: dict[str, list[float]] = {name: [] for name in arms}
        splits: dict[str, list[float]] = {name: [] for name in arms}
        for turn in range(a.rounds):
            forget(own)
            for prompt in prompts:
                texts = {}
                for name in list(arms)[:: 1 if turn % 2 == 0 else -1]:
                    start = time.perf_counter()
                    texts[name] = arms[name](prompt, a.tokens)
                    rates[name].append(len(texts[name]) / (time.perf_counter() - start))
                for name, text in texts.items():
                    if text != texts["plain"]:
                        splits[name].append(split(target, prompt, texts["plain"], text))
        for name, found in rates.items():
            rate, pairs = median(found), [x / y for x, y in zip(found, rates["plain"], strict=True)]
            yield {
                "kind": kind,
                "arm": name,
                "tokens_per_second": rate,
                "ratio": rate / median(rates["plain"]),
                "ratio_of_pairs": median(pairs),
                "runs": len(found),
                "identical": len(found) - len(splits[name]),
                "splits": splits[name],
                "all": found,
            }


def split(target: Model, prompt: list[int], plain: list[int], other: list[int]) -> float:
    """How much likelier, in nats of logits, plain decoding's token was than the other's where they part."""
    at = next((i for i, (x, y) in enumerate(zip(plain, other, strict=False)) if x != y), None)
    if at is None:
        return float("inf")  # one text is the other's beginning: no tie, but an end that came too early
    session = target.engine.session()
    (step,) = target.engine.forward([Decode(session, [*prompt, *plain[:at]])])
    row = step.logits(ROOT)
    gap = float(row[plain[at]] - row[other[at]])
    session.close()
    return gap


def drafters(small: list[Model], table: NgramTable | None) -> dict[str, Drafter]:
    out: dict[str, Drafter] = {} if small else {"hierarchy": Hierarchy()}
    if table is not None:
        out["hierarchy, database"] = Hierarchy(model=table)
    for model in small:
        where = f", {model.backend}"
        out |= {
            f"model{where}": ModelDrafter(model, kind="chain", size=8),
            f"sequoia{where}": ModelDrafter(model, kind="sequoia"),
            f"dyspec{where}": ModelDrafter(model, kind="dyspec"),
            f"cascade{where}": ModelDrafter(model, kind="chain", size=8, inner=PromptLookup()),
        }
    return out


def forget(own: dict[str, Drafter]) -> None:
    """A new round asks the old questions: what was answered before must not be drafted from."""
    for drafter in own.values():
        drafter.forget()


def transformers_arms(target: Model, small: list[Model], own: dict[str, Drafter]) -> dict[str, Arm]:
    import torch

    library = target.library

    def stock(**settings: Any) -> Arm:
        def run(prompt: list[int], most: int) -> list[int]:
            ids = torch.tensor([prompt])
            out = library.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=most, **settings
            )
            return out[0, len(prompt) :].tolist()

        return run

    def ours(drafter: Drafter) -> Arm:
        from reasonctl.backends.hf.tokenizer import HFTokenizer

        assert isinstance(target.tokenizer, HFTokenizer)

        def run(prompt: list[int], most: int) -> list[int]:
            with attach(library, Controller(drafter=drafter), tokenizer=target.tokenizer.tokenizer):
                return stock()(prompt, most)

        return run

    arms = {"plain": stock()}
    assistant = next((model for model in small if model.backend == "transformers"), None)
    if assistant is not None:
        for n in ASSISTED:
            arms[f"assistant {n}"] = assisted(stock, assistant, n)
    else:
        arms |= {f"lookup {n}": stock(prompt_lookup_num_tokens=n, max_matching_ngram_size=LONGEST) for n in LOOKUPS}
    return arms | {name: ours(drafter) for name, drafter in own.items()}


def assisted(stock: Callable[..., Arm], small: Model, n: int) -> Arm:
    def run(prompt: list[int], most: int) -> list[int]:
        small.library.generation_config.num_assistant_tokens = n
        return stock(assistant_model=small.library)(prompt, most)

    return run


def llama_arms(target: Model, own: dict[str, Drafter]) -> dict[str, Arm]:
    from llama_cpp import Llama
    from llama_cpp.llama_speculative import LlamaPromptLookupDecoding

    from reasonctl.backends.llama.load import without_amx

    def stock(llm: Any, eos: frozenset[int]) -> Arm:
        def run(prompt: list[int], most: int) -> list[int]:
            llm.reset()
            out: list[int] = []
            for token in llm.generate(prompt, temp=0.0, top_k=1):
                out.append(token)
                if len(out) == most or token in eos:
                    break
            return out

        return run

    path, n = target.library.model_path, target.library.n_threads

    def another(draft: Any = None) -> Any:
        # The library keeps logits of n_ctx rows for a draft model, but makes room for them only if it is asked to.
        all_rows = draft is not None
        with without_amx():
            return Llama(
                path, n_ctx=1024, n_threads=n, n_threads_batch=n, draft_model=draft, logits_all=all_rows, verbose=False
            )

    arms = {"plain": stock(another(), target.eos)}
    for k in (2, 5, 10):
        arms[f"lookup {k}"] = stock(another(LlamaPromptLookupDecoding(num_pred_tokens=k)), target.eos)
    for name, drafter in own.items():
        llm = another()
        attach(llm, Controller(drafter=drafter))
        arms[name] = stock(llm, target.eos)
    return arms


if __name__ == "__main__":
    main()
