"""The tables of docs/drafting.md: speed against the libraries' own drafting, acceptance, expected and measured steps.

    python examples/drafting.py speed MODEL [--draft-model SMALLER] [--dtype bfloat16] [--tokens 128] [--rounds 3]
    python examples/drafting.py acceptance MODEL --draft-model SMALLER [--tokens 100]
    python examples/drafting.py steps MODEL --draft-model SMALLER [--tokens 128]
    python examples/drafting.py triforce MODEL [--context 8000] [--budget 512]       (see triforce.py)

MODEL is what `ctl` takes. Greedy in `speed`; arms interleaved; every arm has the same prompts (calibration/kinds.py).
One JSON object per line goes to --out; keep that file beside the table that is made from it.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
from reasonctl.backends import Model, attach, load_model
from reasonctl.calibration.advise_draft import law, rank_acceptance, rows, written
from reasonctl.calibration.bench import cost_curve
from reasonctl.calibration.kinds import KINDS
from reasonctl.controller import (
    Call,
    Controller,
    Drafter,
    Greedy,
    Hierarchy,
    Keys,
    ModelDrafter,
    Proposal,
    Sampling,
    Trace,
)  # fmt: skip
from reasonctl.controller.ngrams import Recent
from reasonctl.controller.planned import PRIOR
from reasonctl.controller.trees import Shape, sequoia
from reasonctl.controller.verify import node_tests
from triforce import triforce

LOOKUPS = (3, 5, 10, 20)
ASSISTED = (3, 5, 10)
TEMPERATURES = (0.2, 0.4, 0.6, 0.8, 1.0, 1.2)

Arm = Callable[[list[int], int], list[int]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "acceptance", "steps", "triforce"])
    parser.add_argument("model")
    parser.add_argument("--draft-model")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"])
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=4, help="of each kind")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--only", nargs="*", help="arms of `speed` whose names begin so, besides plain")
    parser.add_argument("--context", type=int, default=8000, help="most tokens of context, for `triforce`")
    parser.add_argument("--budget", type=int, default=512, help="tokens that its middle level reads")
    parser.add_argument("--out", type=Path, default=Path("drafting.jsonl"))
    a = parser.parse_args()
    target = opened(a.model, a.dtype, a.threads)
    small = opened(a.draft_model, a.dtype, a.threads) if a.draft_model else None
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
    from reasonctl.backends.hf_load import load_transformers
    from reasonctl.backends.load import tiny_folder

    if threads is not None:
        torch.set_num_threads(threads)
    return load_transformers(str(tiny_folder()) if name == "tiny" else name, dtype=getattr(torch, dtype))


# speed


def speed(target: Model, small: Model | None, a: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Median tokens per second of each arm on each kind, and its ratio to plain."""
    own = drafters(small)
    arms = transformers_arms(target, small, own) if target.backend == "transformers" else llama_arms(target, own)
    if a.only is not None:
        arms = {n: arm for n, arm in arms.items() if n == "plain" or n.startswith(tuple(a.only))}
    for kind, questions in KINDS.items():
        prompts = [target.prompt(question) for question in questions[: a.prompts]]
        rates: dict[str, list[float]] = {name: [] for name in arms}
        same = dict.fromkeys(arms, 0)
        for arm in arms.values():
            arm(target.prompt("Hello."), 8)  # whatever happens at first use happens here
        for turn in range(a.rounds):
            forget(own)
            for prompt in prompts:
                texts = {}
                for name in list(arms)[:: 1 if turn % 2 == 0 else -1]:
                    start = time.perf_counter()
                    texts[name] = arms[name](prompt, a.tokens)
                    rates[name].append(len(texts[name]) / (time.perf_counter() - start))
                for name, text in texts.items():
                    same[name] += text == texts["plain"]
        plain = median(rates["plain"])
        for name, found in rates.items():
            rate = median(found)
            yield {
                "kind": kind, "arm": name, "tokens_per_second": rate, "ratio": rate / plain, "runs": len(found),
                "identical": same[name], "all": found,
            }  # fmt: skip


def drafters(small: Model | None) -> dict[str, Drafter]:
    out: dict[str, Drafter] = {"hierarchy": Hierarchy()}
    if small is not None:
        out |= {
            "model": ModelDrafter(small, kind="chain", size=8), "sequoia": ModelDrafter(small, kind="sequoia"),
            "dyspec": ModelDrafter(small, kind="dyspec"),
        }  # fmt: skip
    return out


def forget(own: dict[str, Drafter]) -> None:
    """A new round asks the old questions: what was answered before must not be drafted from."""
    for drafter in own.values():
        if isinstance(drafter, Hierarchy):
            drafter.recent = Recent()


def transformers_arms(target: Model, small: Model | None, own: dict[str, Drafter]) -> dict[str, Arm]:
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
        from reasonctl.backends.hf_tokenizer import HFTokenizer

        assert isinstance(target.tokenizer, HFTokenizer)

        def run(prompt: list[int], most: int) -> list[int]:
            with attach(library, Controller(drafter=drafter), tokenizer=target.tokenizer.tokenizer):
                return stock()(prompt, most)

        return run

    arms = {"plain": stock()} | {f"lookup {n}": stock(prompt_lookup_num_tokens=n) for n in LOOKUPS}
    if small is not None:
        for n in ASSISTED:
            arms[f"assistant {n}"] = assisted(stock, small, n)
    return arms | {name: ours(drafter) for name, drafter in own.items()}


def assisted(stock: Callable[..., Arm], small: Model, n: int) -> Arm:
    def run(prompt: list[int], most: int) -> list[int]:
        small.library.generation_config.num_assistant_tokens = n
        return stock(assistant_model=small.library)(prompt, most)

    return run


def llama_arms(target: Model, own: dict[str, Drafter]) -> dict[str, Arm]:
    from llama_cpp import Llama
    from llama_cpp.llama_speculative import LlamaPromptLookupDecoding
    from reasonctl.backends.llama_load import without_amx

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
        # The library keeps logits of n_ctx rows for a draft model, but makes room for them only if it is told.
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


# acceptance


def acceptance(target: Model, small: Model | None, a: argparse.Namespace) -> list[dict[str, Any]]:
    """Acceptance of three siblings drawn with and without replacement, and taken largest first, by temperature."""
    assert small is not None, "--draft-model is missing"
    questions = [q for kind in KINDS.values() for q in kind[: a.prompts]]
    prompts = [target.prompt(question) for question in questions]
    out = []
    for temperature in TEMPERATURES:
        policy = Sampling(temperature=temperature)
        texts = written(target, prompts, policy, a.tokens, 0)
        rng = np.random.default_rng(0)
        sums: dict[str, list[float]] = {"chain": [], "with": [], "without": [], "largest": []}
        for prompt, text in zip(prompts, texts, strict=True):
            for p_row, q_row in zip(rows(target, prompt, text), rows(small, prompt, text), strict=True):
                size = min(len(p_row), len(q_row))
                p, q = law(p_row[:size], policy), law(q_row[:size], policy)
                sums["chain"].append(float(np.minimum(p, q).sum()))
                again = [int(t) for t in np.searchsorted(np.cumsum(q), rng.random(3) * q.sum())]
                sums["with"].append(accepted(p, Proposal(q, tuple(again), True)))
                with np.errstate(divide="ignore"):
                    keys = np.where(q > 0, np.log(rng.random(size)) / np.maximum(q, 1e-300), -np.inf)
                draws = [int(t) for t in np.argsort(-keys)[:3] if q[t] > 0]
                sums["without"].append(sum(rank_acceptance(p, q, draws)))
                sums["largest"].append(float(p[np.argsort(-q)[:3]].sum()))
        n = len(sums["chain"])
        row = {name: mean(values) for name, values in sums.items()}
        errors = {f"{name}_error": float(np.std(values) / np.sqrt(n)) for name, values in sums.items()}
        out.append({"temperature": temperature, "positions": n, **row, **errors})
    return out


def accepted(target: Any, proposal: Proposal) -> float:
    reach, total = 1.0, 0.0
    for token, left, q in node_tests(target, proposal):
        if token is not None:
            chance = min(1.0, float(left[token] / q[token])) if q[token] > 0 else 0.0
            total, reach = total + reach * chance, reach * (1.0 - chance)
    return total


# steps


def steps(target: Model, small: Model | None, a: argparse.Namespace) -> list[dict[str, Any]]:
    """Emitted tokens per step and seconds per token of each tree at equal size: expected by the plan, and measured."""
    assert small is not None, "--draft-model is missing"
    questions = [q for kind in KINDS.values() for q in kind[: a.prompts]]
    prompts = [target.prompt(question) for question in questions]
    curves = cost_curve(target, prompts[0], contexts=(64,)), cost_curve(small, prompts[0], contexts=(64,))
    out = []
    for policy in (Greedy(), Sampling(temperature=0.6), Sampling(temperature=1.0)):
        for size in (4, 8, 16):
            for kind in ("chain", "sequoia", "dyspec", "dyspec-greedy"):
                drafter = ModelDrafter(small, kind=kind, size=size, depth=8, adaptive=False, curves=curves)
                tokens = forwards = drafted = 0
                start = time.perf_counter()
                for i, prompt in enumerate(prompts):
                    trace, session = Trace(), target.engine.session()
                    call = Call(prompt, a.tokens, target.eos, Keys(seed=1, run=i), policy)
                    for _ in Controller(drafter=drafter).stream(session, target.tokenizer, call, trace):
                        pass
                    session.close()
                    # The prefill's token is plain.
                    tokens, forwards = tokens + len(trace.tokens) - 1, forwards + trace.forwards - 1
                    drafted += trace.drafted
                seconds = time.perf_counter() - start
                rates = [drafter.rates.of(str(k)) for k in range(4)]
                expected = expected_emitted(drafter, rates) if kind in ("chain", "sequoia") else None
                out.append({
                    "policy": str(policy), "size": size, "kind": kind, "emitted_per_step": tokens / forwards,
                    "drafted_per_step": drafted / forwards, "tokens_per_second": tokens / seconds,
                    "acceptance": rates, "expected_per_step": expected,
                    "expected_tokens_per_second": expected and expected_rate(drafter, expected),
                })  # fmt: skip
    return out


def static_shape(drafter: ModelDrafter) -> Shape:
    acceptance = tuple(PRIOR.values()) if drafter.kind == "sequoia" else (1.0,)
    return sequoia(acceptance, drafter.size + 1, drafter.depth + 1)


def expected_emitted(drafter: ModelDrafter, acceptance: list[float]) -> float:
    """What the fixed tree emits a step if child k of an accepted node is accepted with probability acceptance[k]."""
    shape = static_shape(drafter)
    values: list[float] = []
    for parent, rank in zip(shape.parents, shape.ranks, strict=True):
        values.append((values[parent] if parent >= 0 else 1.0) * acceptance[rank])
    return 1.0 + sum(values)


def expected_rate(drafter: ModelDrafter, emitted: float) -> float:
    assert drafter.curves is not None
    target, own = drafter.curves
    shape = static_shape(drafter)
    return emitted / (target.at(1 + len(shape.parents)) + shape.depth() * own.at(1))


if __name__ == "__main__":
    main()
