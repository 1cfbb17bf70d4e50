"""Entropies and temperatures of a recorded run: each token's own, and the run's tokens stay the same."""

from __future__ import annotations

import numpy as np
import pytest

from reasonctl.backends.toy import ToyEngine, ToyTokenizer
from reasonctl.controller import Call, Controller, Keys, PromptLookup, Trace, entropy, parse_policy

TOKENIZER = ToyTokenizer(["a ", "b ", "wait ", "so ", ". ", "<eos>"])


def run(policy: str, record: bool = True, drafter: PromptLookup | None = None) -> tuple[Trace, ToyEngine]:
    engine, trace = ToyEngine(vocabulary=6, seed=6), Trace()
    controller = Controller(policy=parse_policy(policy), record=record, drafter=drafter)
    call = Call(
        prompt=[0, 1, 0, 1], max_new_tokens=30, keys=Keys(seed=3), policy=parse_policy("greedy"), eos=frozenset()
    )
    for _ in controller.stream(engine.session(), TOKENIZER, call, trace):
        pass
    return trace, engine


@pytest.mark.parametrize(
    ("policy", "temperature"),
    [
        ("temperature(0.7) | top_p(0.6)", 0.7),
        ("top_k(2) | temperature(1.5)", 1.5),
        ("greedy", 0.0),
        ("min_p(0.1)", 1.0),
    ],
)
def test_each_token_has_its_rows_entropy_and_its_temperature(policy: str, temperature: float) -> None:
    trace, engine = run(policy)
    before = [1, *trace.tokens[:-1]]
    assert trace.entropies == pytest.approx([entropy(np.log(engine.table[token])) for token in before], abs=1e-5)
    assert trace.temperatures == pytest.approx([temperature] * 30)


def test_edt_says_what_it_did() -> None:
    trace, _ = run("edt(t0=0.8,theta=0.4)")
    expected = [0.8 * 0.8 ** (0.4 / one) for one in trace.entropies if one]
    assert trace.temperatures == pytest.approx(expected, rel=1e-4) and len({round(t, 3) for t in expected}) > 2


@pytest.mark.parametrize("policy", ["temperature(0.7)", "edt(t0=0.8,theta=0.4) | top_p(0.9)"])
def test_recording_and_drafting_change_no_token(policy: str) -> None:
    plain, recorded, drafted = run(policy, record=False)[0], run(policy)[0], run(policy, drafter=PromptLookup())[0]
    assert plain.tokens == recorded.tokens == drafted.tokens and drafted.accepted > 0
    assert plain.entropies == [] and recorded.entropies == drafted.entropies
    assert recorded.sources == ["model"] * 30 and drafted.sources.count("draft") == drafted.accepted
