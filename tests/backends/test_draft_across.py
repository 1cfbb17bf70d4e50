"""A draft model of one backend for a target of the other: GGUF files draft for transformers, and the reverse."""

from __future__ import annotations

from functools import cache

import pytest

from reasonctl.backends.load import load_model
from reasonctl.controller import Call, Controller, Greedy, Keys, ModelDrafter, PromptLookup, Sampling, Trace
from reasonctl.controller.core.tokenizer import vocabulary_of
from reasonctl.controller.drafting.planning.cost import CostCurve

BACKENDS = {"transformers": "llama.cpp", "llama.cpp": "transformers"}
CURVES = CostCurve({0: {1: 1.0, 32: 1.0}}), CostCurve({0: {1: 0.05, 32: 0.05}})


@cache
def tiny(backend):
    return load_model("tiny", backend=backend, threads=1)


def played(target, drafter, policy, run=0):
    trace, session = Trace(), target.engine.session()
    call = Call(target.prompt("48 a-9 b+6 c-3"), 60, target.eos, Keys(seed=2, run=run), policy)
    list(Controller(drafter=drafter).stream(session, target.tokenizer, call, trace))
    session.close()
    return trace


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "kind",
    [
        "chain",
        "dyspec",
        *(pytest.param(one, marks=pytest.mark.slow) for one in ("cascade", "sequoia", "dyspec-greedy")),
    ],
)
def test_the_other_backend_drafts(backend, kind):
    """The same weights up to rounding: greedy runs are plain ones, and nearly all that is drawn is accepted."""
    target, other = tiny(backend), tiny(BACKENDS[backend])
    assert vocabulary_of(target.tokenizer) == vocabulary_of(other.tokenizer)
    inner, kind = (PromptLookup(), "chain") if kind == "cascade" else (None, kind)
    drafter = ModelDrafter(other, kind=kind, size=6, depth=4, inner=inner, curves=CURVES, adaptive=False)
    plain, drafted = played(target, None, Greedy()), played(target, drafter, Greedy())
    assert drafted.tokens == plain.tokens and drafted.accepted > 20
    for i in range(3):
        drawn = played(target, drafter, Sampling(temperature=0.8), i)
        assert len(drawn.tokens) / drawn.forwards > 1.8
    assert len(tiny("llama.cpp").engine.sequences.free) == 15  # every session is closed


@pytest.mark.parametrize("backend", BACKENDS)
def test_plans_measure_both_backends(backend, tmp_path, monkeypatch):
    monkeypatch.setenv("REASONCTL_CACHE", str(tmp_path))
    target = tiny(backend)
    drafted = played(target, ModelDrafter(tiny(BACKENDS[backend])), Greedy())
    assert drafted.tokens == played(target, None, Greedy()).tokens
    assert len(list(tmp_path.glob("costs/*.json"))) == 2
