"""Drafting on the bundled model: the tokens of a plain run with the same keys, on both backends.

A batch of rows and a single row differ by rounding, so that a draw whose uniform lies on an edge of the law may fall on
the other side. Such splits are counted, and each must lie on an edge; nothing else may split.
"""

from __future__ import annotations

import json

import numpy as np
import pytest

from reasonctl.backends.load import load_model
from reasonctl.backends.model import Model
from reasonctl.calibration.tasks.sources import load_task
from reasonctl.controller import (
    ROOT,
    Call,
    Controller,
    Decode,
    Drafter,
    Greedy,
    Hierarchy,
    Keys,
    Policy,
    PromptLookup,
    Sampling,
    Trace,
)
from reasonctl.controller.drafting.planning.cost import CostCurve

NOISE = {"transformers": 1e-4, "llama.cpp": 2e-2}
"""Largest distance of a uniform from its edge (or of two logits, when greedy) that rounding explains."""


def tokens_of(model: Model, prompt: list[int], policy: Policy, run: int, drafter: Drafter | None) -> Trace:
    trace, session = Trace(), model.engine.session()
    call = Call(prompt, 200, model.eos, Keys(seed=4, run=run), policy)
    list(Controller(drafter=drafter).stream(session, model.tokenizer, call, trace))
    session.close()
    return trace


def on_an_edge(model: Model, tokens: list[int], policy: Policy, run: int, noise: float) -> bool:
    """Whether the token after `tokens` hangs by less than `noise`."""
    session = model.engine.session()
    (step,) = model.engine.forward((Decode(session, tokens),))
    logits = step.logits(ROOT).copy()
    session.close()
    if isinstance(policy, Greedy):
        best = np.sort(logits)[-2:]
        return bool(best[1] - best[0] < 10 * noise)
    edges = np.cumsum(policy.probs(logits))
    return bool(np.abs(edges - Keys(seed=4, run=run).uniform(len(tokens))).min() < noise)


DRAFTERS = {"ngram": PromptLookup(size=6), "hierarchy": Hierarchy(curve=CostCurve({0: {1: 1.0, 32: 1.6}}))}


def count(backend: str, n: int, name: str) -> dict[str, int]:
    model = load_model("tiny", backend=backend, threads=1)
    noise, splits, accepted, saved = NOISE[backend], 0, 0, 0
    for i, problem in enumerate(load_task("tiny").problems(n, stream=31)):
        prompt = model.prompt(problem.question)
        for policy in (Greedy(), Sampling(temperature=0.6)):
            plain, drafted = (tokens_of(model, prompt, policy, i, d) for d in (None, DRAFTERS[name]))
            accepted, saved = accepted + drafted.accepted, saved + plain.forwards - drafted.forwards
            if drafted.tokens != plain.tokens:
                pairs = zip(plain.tokens, drafted.tokens, strict=False)
                at = next(k for k, (a, b) in enumerate(pairs) if a != b)
                assert on_an_edge(model, prompt + plain.tokens[:at], policy, i, noise), (backend, i, at)
                splits += 1
    return {"runs": 2 * n, "splits_on_an_edge": splits, "accepted": accepted, "forwards_saved": saved}


@pytest.mark.parametrize("name", ["ngram", pytest.param("hierarchy", marks=pytest.mark.slow)])
@pytest.mark.parametrize("backend", list(NOISE))
def test_drafted_is_plain(backend, name):
    result = count(backend, 4, name)
    assert result["accepted"] > 100 and result["forwards_saved"] > 50
    assert result["splits_on_an_edge"] <= 1


@pytest.mark.slow
@pytest.mark.parametrize("name", DRAFTERS)
@pytest.mark.parametrize("backend", list(NOISE))
def test_drafted_is_plain_on_many_runs(backend, name):
    result = count(backend, 100, name)
    print(backend, name, json.dumps(result))
    assert result["splits_on_an_edge"] <= (2 if backend == "transformers" else 10)


def test_the_edge_check_can_fail():
    """A token far from any edge is no rounding accident."""
    model = load_model("tiny", backend="llama.cpp", threads=1)
    prompt = model.prompt("48 a-9 b+6 c-3")
    assert not on_an_edge(model, prompt, Greedy(), 0, NOISE["llama.cpp"])
