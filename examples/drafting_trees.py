"""Trees on one footing: how often drawn siblings are accepted by temperature, and what a step of each tree emits.

Two tables of drafting.py, which see. `acceptance` needs no timing; its figure: --figure FILE.svg.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from reasonctl.backends import Model
from reasonctl.calibration.advise_draft import law, rank_acceptance, rows, written
from reasonctl.calibration.bench import cost_curve
from reasonctl.calibration.kinds import KINDS
from reasonctl.controller import Call, Controller, Greedy, Keys, ModelDrafter, Proposal, Sampling, Trace
from reasonctl.controller.planned import PRIOR
from reasonctl.controller.trees import Shape, sequoia
from reasonctl.controller.verify import node_tests

TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2)
DRAFTED = 0.6
WAYS = {
    "without": "three drawn without replacement", "with": "three drawn with replacement",
    "largest": "the three largest", "chain": "one drawn",
}  # fmt: skip


def acceptance(target: Model, drafts: list[Model], a: argparse.Namespace) -> list[dict[str, Any]]:
    """Acceptance of three siblings drawn with and without replacement, and taken largest first, by temperature."""
    (small,) = drafts
    questions = [q for kind in KINDS.values() for q in kind[: a.prompts]]
    prompts = [target.prompt(question) for question in questions]
    out = []
    for temperature in TEMPERATURES:
        # A greedy target is drafted for by draws at 0.6: draws of a one-hot law would all be the same token.
        policy = Sampling(temperature=temperature or DRAFTED)
        texts = written(target, prompts, policy if temperature else Greedy(), a.tokens, 0)
        rng = np.random.default_rng(0)
        sums: dict[str, list[float]] = {"chain": [], "with": [], "without": [], "largest": []}
        for prompt, text in zip(prompts, texts, strict=True):
            for p_row, q_row in zip(rows(target, prompt, text), rows(small, prompt, text), strict=True):
                size = min(len(p_row), len(q_row))
                q = law(q_row[:size], policy)
                p = law(p_row[:size], policy) if temperature else (np.arange(size) == p_row[:size].argmax()) * 1.0
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
    if a.figure:
        figure(out, a.figure)
    return out


def accepted(target: Any, proposal: Proposal) -> float:
    reach, total = 1.0, 0.0
    for token, left, q in node_tests(target, proposal):
        if token is not None:
            chance = min(1.0, float(left[token] / q[token])) if q[token] > 0 else 0.0
            total, reach = total + reach * chance, reach * (1.0 - chance)
    return total


def figure(found: list[dict[str, Any]], path: Path) -> None:
    """Acceptance of a node's children against temperature, with two standard errors."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(7, 4), layout="constrained")
    axes = drawing.subplots()
    for way, told in WAYS.items():
        errors = [2 * row[f"{way}_error"] for row in found]
        axes.errorbar([row["temperature"] for row in found], [row[way] for row in found], errors, label=told, capsize=2)
    axes.set_xlabel("temperature of target and draft (0: greedy target, drafts at 0.6)")
    axes.set_ylabel("chance that a child is accepted")
    axes.set_ylim(top=1.0)
    axes.grid(alpha=0.3)
    axes.legend()
    drawing.savefig(path, metadata={"Date": None})


def steps(target: Model, drafts: list[Model], a: argparse.Namespace) -> list[dict[str, Any]]:
    """Emitted tokens per step and seconds per token of each tree at equal size: expected by the plan, and measured."""
    (small,) = drafts
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
