"""TriForce: the distribution of three levels written out, the toy pair in the loop, and runs without a sparse view."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from reasonctl.backends.toy import ToyEngine
from reasonctl.controller import (
    Call,
    Controller,
    ControllerError,
    Draft,
    Greedy,
    Hierarchy,
    Keys,
    ModelDrafter,
    PromptLookup,
    Proposal,
    Sampling,
    Trace,
    TriForce,
    parse_draft,
)
from reasonctl.controller.drafting.models.cascade import Draws, middle_chain
from reasonctl.controller.sampling.rejection import node_tests
from support.exact_probs import emitted, outcomes
from support.statistics import exact_three, merged_p_value
from support.toy_drafts import ALPHA, CHEAP, DEAR, FLAT, SMALL, TARGET, TOKENS, run, small
from support.toy_triforce import LONG, PREFIX, SparseEngine, triforce

# The distribution of three levels, every draw and every test written out.


class Scripted(Draws):
    """Choices by `choose`, and tests as choices between acceptance and rejection."""

    def __init__(self, choose):
        self.choose = choose

    def follow(self, probs, proposal):
        for token, left, drawn in node_tests(probs, proposal) if proposal else ():
            if token is None:
                return self.choose(left)
            chance = min(1.0, left[token] / drawn[token])
            if self.choose(np.array([1 - chance, chance])):
                return token
        return self.choose(probs)


class Redrawing(Scripted):
    """The authors' middle level: a rejected token is drawn anew from the middle's distribution."""

    def follow(self, probs, proposal):
        for token, left, drawn in list(node_tests(probs, proposal))[:1] if proposal else ():
            chance = min(1.0, left[token] / drawn[token])
            if self.choose(np.array([1 - chance, chance])):
                return token
        return self.choose(probs)


class Below:
    """Chains drawn from a table, by the same choices."""

    def __init__(self, table, choose):
        self.table, self.choose = table, choose

    def propose(self, tokens, room):
        path, proposals = [], {}
        for i in range(room):
            probs = self.table[[*tokens, *path][-1]]
            path.append(self.choose(probs))
            proposals[i - 1] = Proposal(probs, (path[-1],))
        return Draft(tuple(path), tuple(range(-1, len(path) - 1)), proposals)
        yield

    def observe(self, draft, accepted):
        pass


class Table:
    """A middle model whose distributions are a table's rows."""

    def __init__(self, table, leaves=1):
        self.table, self.leaves = table, leaves

    def decode(self, tokens, draft):
        return None
        yield

    def keep(self, path):
        pass

    def probs(self, step, node, tokens):
        return self.table[tokens[-1]]


def chain_of(tables, size, draws=Scripted):
    """The middle's chain after token 0 as a function of the choices made for it."""

    def growing(choose):
        middle = Table(tables[1])
        asking = middle_chain(middle, middle.probs, Below(tables[2], choose), [0], size, draws(choose))
        while True:
            try:
                next(asking)
            except StopIteration as end:
                return end.value

    return growing


def three_levels(tables, size, draws=Scripted, length=2):
    """Shape (V,) * length: the distribution of what the target emits."""
    out, total = np.zeros((len(tables[0]),) * length), 0.0
    for weight, draft in outcomes(chain_of(tables, size, draws)):
        out += weight * emitted(draft, lambda path: tables[0][path[-1] if path else 0], length)
        total += weight
    assert total == pytest.approx(1.0, abs=1e-12)
    return out


def plain(table, length=2):
    out = np.ones((len(table),) * length)
    for path in itertools.product(range(len(table)), repeat=length):
        for before, token in zip((0, *path), path, strict=False):
            out[path] *= table[before][token]
    return out


P, M, Q = (np.tile(row, (3, 1)) for row in ([0.2, 0.3, 0.5], [0.3, 0.4, 0.3], [0.7, 0.2, 0.1]))


def test_the_golden_toy():
    """Without the residual at the middle level the distribution is off by 0.08; with it, exact."""
    wrong = three_levels((P, M, Q), 2, Redrawing, length=1)
    assert wrong == pytest.approx([0.28, 0.27, 0.45], abs=1e-12)
    assert 0.5 * np.abs(wrong - P[0]).sum() == pytest.approx(0.08)
    assert three_levels((P, M, Q), 2, length=1) == pytest.approx(P[0], abs=1e-12)


rng = np.random.default_rng(8)
FIVE = tuple(rng.dirichlet(np.ones(5) * 0.7, size=5) for _ in range(3))
FIVE[0][1] = [0, 0.6, 0.4, 0, 0]  # truncated target
FIVE[1][2] = [0, 0.2, 0.8, 0, 0]  # truncated middle


@pytest.mark.parametrize("tables, size", [(FIVE, 2), ((P, M, Q), 3)], ids=["five", "three"])
def test_three_levels_keep_the_distribution_exactly(tables, size):
    assert np.abs(three_levels(tables, size) - plain(tables[0])).max() < 1e-12
    assert np.abs(three_levels(tables, size, Redrawing) - plain(tables[0])).max() > 1e-3


@pytest.mark.parametrize("tables, size", [(FIVE, 2), ((P, M, Q), 3)], ids=["five", "three"])
def test_the_middle_level_hands_up_its_own_distribution(tables, size):
    """The chain follows the middle model, whatever drafts for it: that is what the target tests against."""
    probs = np.zeros((len(tables[0]),) * size)
    for weight, draft in outcomes(chain_of(tables, size)):
        assert len(draft) == size
        probs[draft.tokens] += weight
        for i, token in enumerate(draft.tokens):
            before = draft.tokens[i - 1] if i else 0
            assert (
                draft.proposals[i - 1].probs is not None and (draft.proposals[i - 1].probs == tables[1][before]).all()
            )
            assert draft.proposals[i - 1].draws == (token,)
    assert np.abs(probs - plain(tables[1], size)).max() < 1e-12


class Fixed:
    """Drafts that are a function of the past: a chain, or a tree with siblings."""

    def __init__(self, tree):
        self.tree, self.asked = tree, 0

    def propose(self, tokens, room):
        self.asked += 1
        first = (tokens[-1] + 1) % 3
        chain = [(first + i * i) % 3 for i in range(room)]
        if not self.tree or room < 2:
            return Draft.chain(chain)
        return Draft((*chain, (first + 1) % 3, (first + 2) % 3), (*range(-1, room - 1), -1, -1))
        yield

    def observe(self, draft, accepted):
        pass


@pytest.mark.parametrize("tree", [False, True])
@pytest.mark.parametrize("tables, size", [(FIVE, 2), ((P, M, Q), 3)], ids=["five", "three"])
def test_over_a_deterministic_level_the_distribution_is_exact_too(tables, size, tree):
    """The middle's chain is its own distribution, and what the target emits the target's, whatever n-grams guess."""
    chain, out, total = np.zeros((len(tables[0]),) * size), np.zeros((len(tables[0]),) * 2), 0.0
    middle = Table(tables[1], leaves=9 if tree else 1)

    def growing(choose):
        asking = middle_chain(middle, middle.probs, Fixed(tree), [0], size, Scripted(choose))
        while True:
            try:
                next(asking)
            except StopIteration as end:
                return end.value

    for weight, draft in outcomes(growing):
        chain[draft.tokens] += weight
        out += weight * emitted(draft, lambda path: tables[0][path[-1] if path else 0], 2)
        total += weight
    assert total == pytest.approx(1.0, abs=1e-12)
    assert np.abs(chain - plain(tables[1], size)).max() < 1e-12
    assert np.abs(out - plain(tables[0])).max() < 1e-12


def light(kind):
    if kind == "ngram":
        return PromptLookup(size=3)
    if kind == "hierarchy":
        return Hierarchy(size=4, curve=FLAT, recent=None)
    return ModelDrafter(small(SMALL), kind=kind, size=3, depth=3, adaptive=False)


def long_run(drafter, *, i=0, most=5, policy=None, engine=LONG):
    trace = Trace()
    call = Call(PREFIX, most, frozenset(), Keys(seed=9, run=i), policy or Sampling())
    list(Controller(drafter=drafter).stream(engine.session(), TOKENS, call, trace))
    return trace


def behind_prefix(drafter, n, policy=None):
    """Counts of the second to fourth token after the prompt: what follows the first one, which no draft is for."""
    counts, accepted = np.zeros((5, 5, 5)), 0
    for i in range(n):
        trace = long_run(drafter, i=i, policy=policy, most=6)
        counts[tuple(trace.tokens[1:4])] += 1
        accepted += trace.accepted
    return counts, accepted


def exact_behind(policy):
    """The distribution of those tokens: the first one is drawn after token 0, as in `exact_three`."""
    two = exact_three(policy).sum(2)  # (first, second)
    rows = two / np.maximum(two.sum(1, keepdims=True), 1e-300)
    first = two.sum(1)
    probs = np.zeros((5, 5, 5))
    for a, b, c, d in itertools.product(range(5), repeat=4):
        probs[b, c, d] += first[a] * rows[a][b] * rows[b][c] * rows[c][d]
    return probs


@pytest.mark.parametrize("kind", ["ngram", "hierarchy", "chain", "sequoia", "dyspec"])
@pytest.mark.parametrize("n", [250, pytest.param(30_000, marks=pytest.mark.slow)])
def test_the_distribution_is_the_target_s(kind, n):
    counts, accepted = behind_prefix(triforce(light(kind)), n)
    assert accepted > n
    assert merged_p_value(counts, exact_behind(Sampling())) > ALPHA


def test_a_middle_level_that_redraws_is_caught_in_the_loop(monkeypatch):
    class Wrong(Draws):
        def follow(self, probs, proposal):
            if proposal is not None:
                (token,) = proposal.draws
                if self.uniform() * proposal.probs[token] < probs[token]:
                    return token
            return self.choose(probs)

    monkeypatch.setattr("reasonctl.controller.drafting.models.model_run.Draws", Wrong)
    far = ToyEngine(vocabulary=5)
    far.table = np.roll(TARGET.table, 1, axis=1)
    inner = ModelDrafter(small(far), kind="chain", size=3, depth=3, adaptive=False)
    counts, _ = behind_prefix(triforce(inner), 2500)
    assert merged_p_value(counts, exact_behind(Sampling())) < ALPHA


def test_an_inner_drafter_shares_no_uniform_with_the_run(monkeypatch):
    seen = []
    uniform = Keys.uniform

    def heard(self, position, purpose=0, index=0):
        seen.append((position, purpose, index))
        return uniform(self, position, purpose, index)

    monkeypatch.setattr(Keys, "uniform", heard)
    long_run(triforce(light("chain")), most=60)
    assert len(seen) > 150 and len({purpose for _, purpose, _ in seen}) >= 4
    assert len(seen) == len(set(seen))


def test_greedy_runs_are_plain_runs_and_the_view_is_renewed():
    middle = ToyEngine(vocabulary=5, order=3, seed=2, concentration=0.2)
    engine = SparseEngine(middle, vocabulary=5, order=3, seed=2, concentration=0.2)
    middle.table = 0.6 * engine.table + 0.4 * rng.dirichlet(np.ones(5), size=len(engine.table))
    expected = long_run(None, most=80, policy=Greedy(), engine=engine)
    for kind in ("ngram", "chain"):
        engine.renewals.clear()
        found = long_run(triforce(light(kind), refresh=10), most=80, policy=Greedy(), engine=engine)
        assert found.tokens == expected.tokens and found.accepted > 10
        gaps = np.diff(engine.renewals[1:])
        assert len(gaps) > 3 and gaps.min() >= 10


def test_a_short_context_is_decoded_plainly():
    trace = long_run(triforce(budget=1000), most=20)
    assert trace.drafted == 0 and trace.forwards == 20
    assert long_run(triforce(budget=14), most=20).drafted > 0


def test_plans_follow_costs_at_the_context_s_length():
    cheap = triforce(adaptive=True, curves=(FLAT, CHEAP))
    dear = triforce(adaptive=True, curves=(DEAR, CHEAP))
    same = triforce(adaptive=True, curves=(FLAT, FLAT))
    drafted = [sum(long_run(d, i=i, most=60).drafted for i in range(3)) for d in (cheap, dear, same)]
    assert drafted[0] > 100 and drafted[1:] == [0, 0]
    measured = triforce(adaptive=True)
    long_run(measured, most=40)
    assert list(measured.measured) == [4, 5, 6][: len(measured.measured)] and measured.measured
    for bits, pair in measured.measured.items():
        assert all(int(length).bit_length() == bits for curve in pair for length in curve.seconds)


def test_without_sparse_sessions_the_inner_drafter_drafts_and_the_trace_says_so():
    trace = run(triforce(PromptLookup()), engine=TARGET, policy=Greedy(), most=60)
    assert trace.tokens == run(None, engine=TARGET, policy=Greedy(), most=60).tokens
    assert trace.drafted > 0 and "middle level needs a transformers model" in trace.warnings[0]


def test_the_text_form():
    made = parse_draft("triforce(5, budget=512)")
    assert (made.settings.size, made.budget) == (5, 512) and isinstance(made.inner, PromptLookup)
    assert parse_draft("triforce").settings.size == 6
    opened = []
    made = parse_draft("triforce(model=small.gguf)", lambda name: opened.append(name) or small())
    assert opened == ["small.gguf"] and isinstance(made.inner.inner, PromptLookup)
    for text in ("triforce(budget=x)", "triforce(budget=0)", "triforce(budget=8)", "triforce(0)", "triforce(chunk=2)"):
        with pytest.raises(ControllerError) as caught:
            parse_draft(text)
        assert "\n" not in str(caught.value)
    with pytest.raises(ControllerError, match="can't be opened here"):
        parse_draft("triforce(model=x.gguf)")
    with pytest.raises(ControllerError, match="refresh is 0"):
        TriForce(refresh=0)
