"""Trees on one footing: how often drawn siblings are accepted by temperature, and what a step of each tree emits.

Two tables of drafting.py, which see. `acceptance` needs no timing; its figure: --figure FILE.svg.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from reasonctl.backends import Model
from reasonctl.calibration.advice.draft_model import rank_acceptance, written
from reasonctl.calibration.evaluation.speed import cost_curve
from reasonctl.calibration.runs.teacher_forced import forced_rows
from reasonctl.calibration.tasks.draft_prompts import DRAFT_PROMPTS
from reasonctl.controller import Call, Controller, Greedy, Keys, ModelDrafter, Proposal, Sampling, Trace
from reasonctl.controller.drafting.planning import Ledger
from reasonctl.controller.sampling import node_tests

TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2)
DRAFTED = 0.6
CONTEXTS = (64, 256)
FIXED = 8
WAYS = {
    "without": "three drawn without replacement",
    "with": "three drawn with replacement",
    "largest": "the three largest",
    "chain": "one drawn",
}


def acceptance(target: Model, drafts: list[Model], a: argparse.Namespace) -> list[dict[str, Any]]:
    """Acceptance of three siblings drawn with and without replacement, and taken largest first, by temperature."""
    (small,) = drafts
    questions = [q for kind in DRAFT_PROMPTS.values() for q in kind[: a.prompts]]
    prompts = [target.prompt(question) for question in questions]
    out = []
    for temperature in TEMPERATURES:
        # A greedy target is drafted for by draws at 0.6: draws of a one-hot distribution would all be the same token.
        policy = Sampling(temperature=temperature or DRAFTED)
        texts = written(target, prompts, policy if temperature else Greedy(), a.tokens, 0)
        rng = np.random.default_rng(0)
        sums: dict[str, list[float]] = {"chain": [], "with": [], "without": [], "largest": []}
        for prompt, text in zip(prompts, texts, strict=True):
            both = zip(forced_rows(target, prompt, text), forced_rows(small, prompt, text), strict=True)
            for p_row, q_row in ((target_row.logits, small_row.logits) for target_row, small_row in both):
                size = min(len(p_row), len(q_row))
                q = policy.probs(q_row[:size])
                p = (policy if temperature else Greedy()).probs(p_row[:size])
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
    for way, label in WAYS.items():
        errors = [2 * row[f"{way}_error"] for row in found]
        axes.errorbar(
            [row["temperature"] for row in found], [row[way] for row in found], errors, label=label, capsize=2
        )
    axes.set_xlabel("temperature of target and draft (0: greedy target, drafts at 0.6)")
    axes.set_ylabel("chance that a child is accepted")
    axes.set_ylim(top=1.0)
    axes.grid(alpha=0.3)
    axes.legend()
    drawing.savefig(path, metadata={"Date": None})


def steps(target: Model, drafts: list[Model], a: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Each tree of the best size for its cost model, and of 8 tokens: what its plan expected of a step, and what came.

    One run first, so that acceptance is known and not guessed. `achieved`: measured over expected tokens per second.
    """
    (small,) = drafts
    prompts = [target.prompt(q) for kind in DRAFT_PROMPTS.values() for q in kind[: a.prompts]]
    curves = cost_curve(target, prompts[0], contexts=CONTEXTS), cost_curve(small, prompts[0], contexts=CONTEXTS)
    for policy in (Greedy(), Sampling(temperature=0.6), Sampling(temperature=1.0)):
        for adaptive in (True, False):
            for kind in ("chain", "sequoia", "dyspec"):
                size = 16 if adaptive else FIXED
                drafter = ModelDrafter(small, kind=kind, size=size, depth=8, adaptive=adaptive, curves=curves)
                one_run(target, drafter, prompts[-1], a.tokens, policy, len(prompts))
                drafter.experience.ledger = ledger = Ledger()
                start = time.perf_counter()
                tokens = [one_run(target, drafter, p, a.tokens, policy, i) for i, p in enumerate(prompts)]
                seconds, n = time.perf_counter() - start, max(1, ledger.steps)
                row = {
                    "policy": str(policy),
                    "kind": kind,
                    "size": "planned" if adaptive else size,
                    "tokens_per_second": sum(tokens) / seconds,
                    "drafted_steps": ledger.steps,
                    "acceptance": drafter.experience.acceptance.by_rank(),
                    "expected_per_step": ledger.expected_emitted / n,
                    "emitted_per_step": ledger.emitted / n,
                    "achieved": None,
                }
                if ledger.timed:
                    brought = ledger.emitted / ledger.expected_emitted
                    row["achieved"] = brought * ledger.expected_seconds / ledger.seconds
                yield row


def one_run(target: Model, drafter: ModelDrafter, prompt: list[int], most: int, policy: Any, run: int) -> int:
    trace, session = Trace(), target.engine.session()
    call = Call(prompt, most, target.eos, Keys(seed=1, run=run), policy)
    for _ in Controller(drafter=drafter).stream(session, target.tokenizer, call, trace):
        pass
    session.close()
    return len(trace.tokens)
