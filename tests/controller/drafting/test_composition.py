"""Policies with a state under every drafter: states follow the emitted tokens, and nothing grows with the runs."""

from __future__ import annotations

import gc
import itertools
import tracemalloc

import numpy as np
import pytest

from reasonctl.controller import (
    ROOT,
    Call,
    Controller,
    Hierarchy,
    Keys,
    ModelDrafter,
    PolicyWrapper,
    PromptLookup,
    Row,
    Trace,
)
from reasonctl.controller import parse_policy as policy_of
from reasonctl.controller.core.tokenizer import vocabulary_hash
from reasonctl.controller.drafting.ngrams import Recent, build_table
from support.statistics import merged_p_value
from support.toy_drafts import ALPHA, FLAT, NEAR, TARGET, TOKENS, small
from support.toy_triforce import LONG, PREFIX, triforce

STATEFUL = [
    "penalties(repeat=1.6,presence=0.5,last_n=6) | mirostat_v2(tau=1.5,eta=0.5)",
    "penalties(frequency=0.4,prompt=false) | mirostat(tau=1.0,eta=0.7)",
]

DETERMINISTIC = {"ngram": lambda: PromptLookup(size=4), "hierarchy": lambda: Hierarchy(curve=FLAT)}
DRAWN = {
    kind: lambda kind=kind: ModelDrafter(small(NEAR), kind=kind, size=5, depth=3, adaptive=False)
    for kind in ("chain", "sequoia", "dyspec", "dyspec-greedy")
} | {
    "cascade": lambda: ModelDrafter(small(NEAR), kind="chain", size=5, adaptive=False, inner=PromptLookup(size=3)),
    "triforce": lambda: triforce(PromptLookup(size=3)),
}
DRAFTERS = DETERMINISTIC | DRAWN


class Rows:
    """A step whose row is the toy's law behind given tokens."""

    def __init__(self, tokens):
        self.tokens = tokens

    def logits(self, node):
        return np.log(TARGET.probs(self.tokens))


def before(policy, tokens, start):
    """(the state after `tokens`, the candidates behind them), folded over the tokens without any loop."""
    state = policy.start()
    for end in range(start, len(tokens) + 1):
        row = Row(Rows(tokens[:end]), ROOT, tokens[:end], "answer", Keys(seed=0), frame_of(start))
        held, candidates = policy.candidates(state, row)
        if end == len(tokens):
            return state, candidates
        state = tuple(
            stage.accept(own, candidates, tokens[end]) for stage, own in zip(policy.stages, held, strict=True)
        )
    raise AssertionError


def frame_of(start):
    from reasonctl.controller import RunContext

    return RunContext(start)


class Spy(PolicyWrapper):
    """Remembers the state that each verified row was given; drafts ask the inner policy."""

    def __init__(self, policy):
        super().__init__(policy)
        self.seen = []

    def step(self, state, row):
        self.seen.append((list(row.tokens), state))
        return self.inner.step(state, row)


def drafted(drafter, policy, run=0, most=40):
    trace = Trace()
    call = Call(PREFIX, most, frozenset(), Keys(seed=3, run=run), policy)
    list(Controller(drafter=drafter).stream(LONG.session(), TOKENS, call, trace))
    return trace


@pytest.mark.parametrize("name", DRAFTERS)
@pytest.mark.parametrize("text", STATEFUL, ids=["v2", "v1"])
def test_the_state_follows_the_emitted_tokens(name, text):
    policy, drafter, accepted = policy_of(text), DRAFTERS[name](), 0
    for run in range(4):
        spy = Spy(policy)
        trace = drafted(drafter, spy, run)
        whole = PREFIX + trace.tokens
        assert [tokens for tokens, _ in spy.seen] == [whole[:n] for n in range(len(PREFIX), len(whole))]
        for tokens, state in spy.seen:
            expected, _ = before(policy, tokens, len(PREFIX))
            assert [s for s in state if s is not None] == pytest.approx([s for s in expected if s is not None])
        accepted += trace.accepted
    assert accepted > 20


@pytest.mark.parametrize("name", DETERMINISTIC)
@pytest.mark.parametrize("text", STATEFUL, ids=["v2", "v1"])
def test_deterministic_drafts_give_the_tokens_of_plain_runs(name, text):
    policy, drafter, accepted = policy_of(text), DRAFTERS[name](), 0
    for run in range(10):
        found = drafted(drafter, policy, run)
        assert found.tokens == drafted(None, policy, run).tokens
        accepted += found.accepted
    assert accepted > 50


@pytest.mark.parametrize("name", DRAFTERS)
def test_greedy_behind_penalties_gives_the_tokens_of_plain_runs(name):
    policy = policy_of("penalties(repeat=1.6,presence=0.5,last_n=6) | greedy")
    found = drafted(DRAFTERS[name](), policy, most=80)
    assert found.tokens == drafted(None, policy, most=80).tokens and found.accepted > 10


def exact_two(policy):
    """Shape (5, 5): the law of the second and third token, states and all."""
    out = np.zeros((5, 5, 5))
    for path in itertools.product(range(5), repeat=3):
        chance = 1.0
        for end in range(3):
            _, candidates = before(policy, [*PREFIX, *path[:end]], len(PREFIX))
            chance *= candidates.dense(5)[path[end]]
        out[path] = chance
    return out.sum(0)


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize("n", [100, pytest.param(20_000, marks=pytest.mark.slow)])
def test_drawn_drafts_keep_the_law_of_a_policy_with_a_state(name, n):
    policy, drafter, counts = policy_of(STATEFUL[0]), DRAWN[name](), np.zeros((5, 5))
    for run in range(n):
        counts[tuple(drafted(drafter, policy, run, most=5).tokens[1:3])] += 1
    assert merged_p_value(counts, exact_two(policy)) > ALPHA


@pytest.mark.parametrize(
    "name", ["hierarchy", *(pytest.param(one, marks=pytest.mark.slow) for one in ("sequoia", "triforce"))]
)
@pytest.mark.parametrize("n", [100, pytest.param(10_000, marks=pytest.mark.slow)])
def test_nothing_grows_with_the_runs(name, n):
    """Databases, rates and curves are full after the first part; later runs add nothing."""
    table = build_table([PREFIX * 3], vocabulary=vocabulary_hash(TOKENS), source="toy")
    drafter = DRAFTERS[name]()
    if name == "hierarchy":
        drafter = Hierarchy(curve=FLAT, model=table, recent=Recent(capacity=15))
    policy = policy_of("temperature(1)")

    def held():
        gc.collect()  # what waits for the collector is no growth
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    for run in range(n):
        if run == n // 3:
            first = held()
        drafted(drafter, policy, run, most=6)
        LONG.renewals.clear()  # the toy's own record
    last = held()
    tracemalloc.stop()
    assert last - first < 30_000
