"""Trees: the golden numbers of Sequoia and DySpec, and the exact distribution under every way of drawing one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from reasonctl.controller import ROOT, Draft
from reasonctl.controller.drafting.growth import Growth, draw_greedy, draw_shape, draw_threshold, finish
from reasonctl.controller.drafting.shapes import best_shape, monotone, sequoia, sequoia_gains, trie
from support.exact_probs import emitted, outcomes

A = (0.6, 0.2, 0.08, 0.04)
G = {
    10: {1: 1, 2: 1.6, 3: 1.96, 4: 2.176, 5: 2.376, 6: 2.5056, 8: 2.7456, 16: 3.262016, 32: 3.782810, 64: 4.281555},
    3: {1: 1, 2: 1.6, 3: 1.96, 4: 2.16, 5: 2.28, 6: 2.4, 8: 2.528, 16: 2.744},
    4: {1: 1, 2: 1.6, 3: 1.96, 4: 2.176, 5: 2.376, 6: 2.496, 8: 2.696, 16: 3.1168, 32: 3.408, 64: 3.5344},
}


@pytest.fixture(scope="module")
def gains():
    return sequoia_gains(A, 64, 10)


def test_sequoia_s_golden_gains(gains):
    for layers, row in G.items():
        for nodes, expected in row.items():
            assert gains[nodes, layers] == pytest.approx(expected, abs=1e-6)
    assert gains[32, 3] == gains[64, 3] == -np.inf


def test_the_nodes_of_largest_value_are_the_programme_s_tree(gains):
    for nodes, layers in itertools.product(range(1, 65), range(1, 11)):
        shape = sequoia(A, nodes, layers)
        if gains[nodes, layers] > 0:
            assert len(shape.parents) == nodes - 1
            assert shape.gain == pytest.approx(gains[nodes, layers], abs=1e-12)
            assert shape.depth() + 1 <= layers
        else:
            assert len(shape.parents) < nodes - 1


def test_the_tree_of_eight_and_the_root_s_children_of_sixteen():
    def path(shape, node):
        return () if node == ROOT else (*path(shape, shape.parents[node]), shape.ranks[node] + 1)

    shape = sequoia(A, 8, 10)
    assert {path(shape, i) for i in range(7)} == {(1,), (1, 1), (1, 1, 1), (1, 1, 1, 1), (1, 2), (2,), (2, 1)}
    assert sequoia(A, 16, 10).parents.count(ROOT) == 3


def test_the_programme_is_right_where_the_shortcut_is_not():
    found = sequoia_gains((0.3, 0.05, 0.9), 6, 8)
    assert [found[n, 8] for n in (4, 5, 6)] == pytest.approx([2.25, 2.52, 2.61])
    with pytest.raises(ValueError, match="non-increasing"):
        sequoia((0.3, 0.05, 0.9), 4, 8)
    smooth = monotone((0.3, 0.05, 0.9), (1, 1, 1))
    assert smooth == pytest.approx([1.25 / 3] * 3)
    assert monotone((0.5, 0.1, 0.2), (1, 1, 3)) == pytest.approx([0.5, 0.175, 0.175])


def test_the_programme_against_all_trees():
    def parts(m):
        if m == 0:
            yield ()
        for a in range(1, m + 1):
            for rest in parts(m - a):
                yield (a, *rest)

    def trees(n):
        if n == 1:
            yield ()
        else:
            for sizes in parts(n - 1):
                yield from itertools.product(*(list(trees(k)) for k in sizes))

    def value(tree, p):
        return 1 + sum(p[i] * value(c, p) for i, c in enumerate(tree)) if len(tree) <= len(p) else -9

    for p in (A, (0.3, 0.5, 0.1)):
        found = sequoia_gains(p, 7, 8)
        for n in range(1, 8):
            assert max(value(t, p) for t in trees(n)) == pytest.approx(found[n, 8], abs=1e-12)


@pytest.mark.parametrize(
    "layer_seconds, size, layers, gain, speed", [(0.05, 16, 4, 3.1168, 2.149517), (0.30, 16, 3, 2.744, 1.276279)]
)
def test_the_hardware_optimum(layer_seconds, size, layers, gain, speed):
    seconds = {1: 1.0, 2: 1.0, 4: 1.0, 8: 1.1, 16: 1.25, 32: 1.6, 64: 2.3}
    shape, rate = best_shape(A, seconds.__getitem__, layer_seconds, sizes=seconds, layers=10)
    assert (len(shape.parents) + 1, shape.depth() + 1) == (size, layers)
    assert shape.gain == pytest.approx(gain, abs=1e-6) and rate == pytest.approx(speed, abs=1e-6)


def test_no_tree_where_drafting_does_not_pay():
    shape, rate = best_shape((0.3,), lambda n: float(n), 0.1, sizes=range(2, 9), layers=8)
    assert shape.parents == () and rate == 1.0


def test_leaves_are_bounded():
    for leaves in (1, 2, 3):
        shape = sequoia(A, 20, 8, leaves)
        assert len(set(range(len(shape.parents))) - set(shape.parents)) <= leaves


TOY = {ROOT: (0.6, 0.3, 0.1), 0: (0.5, 0.4, 0.1), 1: (0.9, 0.05, 0.05), 2: (0.34, 0.33, 0.33)}


def toy_probs(draft: Draft, nodes):
    return [np.array(TOY[ROOT if node == ROOT else draft.tokens[node]]) for node in nodes]
    yield


def names(draft: Draft) -> list[str]:
    out: list[str] = []
    for token, parent in zip(draft.tokens, draft.parents, strict=True):
        out.append((out[parent] if parent != ROOT else "") + "ABC"[token])
    return out


def test_dyspec_s_golden_tree():
    growth = Growth(None)
    finish(draw_greedy(growth, toy_probs, nodes=8, layers=99))
    draft = growth.draft()
    assert names(draft) == ["A", "AA", "B", "AB", "AAA", "BA", "BAA", "ABA"]
    assert not draft.proposals
    values = {ROOT: 1.0}
    for node, (token, parent) in enumerate(zip(draft.tokens, draft.parents, strict=True)):
        values[node] = values[parent] * TOY[ROOT if parent == ROOT else draft.tokens[parent]][token]
    assert sum(v for n, v in values.items() if n != ROOT) == pytest.approx(2.211)
    assert growth.values == pytest.approx([values[node] for node in range(8)])


def test_dyspec_s_threshold_form():
    growth = Growth(None)
    finish(draw_threshold(growth, toy_probs, threshold=0.15, nodes=99, layers=99))
    expected = {"A", "AA", "B", "AB", "AAA", "BA", "BAA", "ABA", "ABAA", "AAB", "AAAA"}
    assert set(names(growth.draft())) == expected
    greedy = Growth(None)
    finish(draw_greedy(greedy, toy_probs, nodes=len(expected), layers=99))
    assert set(names(greedy.draft())) == expected  # the threshold is the value of its last slot


def test_a_trie_shares_what_chains_share():
    assert trie([(1, 2, 3), (1, 2, 4), (5,), (1,)]) == Draft((1, 2, 3, 4, 5), (ROOT, 0, 1, 1, ROOT))


# Exact distributions: V = 5, every draw and every test written out.

rng = np.random.default_rng(3)
TARGET, DRAFT = rng.dirichlet(np.ones(5) * 0.7, size=6), rng.dirichlet(np.ones(5) * 0.7, size=6)
TARGET[2] = [0, 0.6, 0.4, 0, 0]  # truncated
DRAFT[1] = [0, 0.7, 0.3, 0, 0]


def target_probs(path):
    return TARGET[path[-1] if path else 5]


def draft_probs(draft, nodes):
    return [DRAFT[5 if node == ROOT else draft.tokens[node]] for node in nodes]
    yield


def expected(length):
    out = np.ones((5,) * length)
    for path in itertools.product(range(5), repeat=length):
        for i, token in enumerate(path):
            out[path] *= target_probs(path[:i])[token]
    return out


WAYS = {
    "chain": lambda g: draw_shape(g, draft_probs, sequoia((0.7,), 3, 4)),
    "five children": lambda g: draw_shape(g, draft_probs, sequoia((0.2,) * 5, 6, 2)),
    "sequoia": lambda g: draw_shape(g, draft_probs, sequoia((0.6, 0.5), 5, 3)),
    "dyspec": lambda g: draw_greedy(g, draft_probs, nodes=4, layers=3),
    "dyspec, two leaves": lambda g: draw_greedy(g, draft_probs, nodes=4, layers=3, leaves=2),
    "threshold": lambda g: draw_threshold(g, draft_probs, threshold=0.3, nodes=4, layers=3),
    "threshold, capped": lambda g: draw_threshold(g, draft_probs, threshold=0.05, nodes=3, layers=2),
}


def emitted_by(way):
    def growing(choose):
        growth = Growth(choose)
        finish(way(growth))
        return growth.draft()

    out, total, sizes = np.zeros((5, 5)), 0.0, set()
    for weight, draft in outcomes(growing):
        out += weight * emitted(draft, target_probs, 2)
        total += weight
        sizes.add(len(draft))
    assert total == pytest.approx(1.0, abs=1e-12) and max(sizes) > 1
    return out


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_drawn_trees_keep_the_distribution_exactly(way):
    assert np.abs(emitted_by(way) - expected(2)).max() < 1e-12


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_largest_first_trees_keep_the_distribution_exactly(way):
    growth = Growth(None)
    finish(way(growth))
    assert np.abs(emitted(growth.draft(), target_probs, 2) - expected(2)).max() < 1e-12


def test_a_stop_that_looks_at_the_token_is_caught():
    """The wrong threshold: on the value of the drawn token, which is then dropped."""

    def wrong(growth):
        growth.give(ROOT, DRAFT[5])
        value = 1.0
        while value > 0.2 and len(growth) < 4:
            node, probability = growth.draw(ROOT)
            if value * probability < 0.2:
                growth.tokens.pop(), growth.parents.pop(), growth._draws[ROOT].pop()
                return
            value *= 1 - probability
        return
        yield

    assert np.abs(wrongly_emitted(wrong) - expected(2)).max() > 1e-3


def wrongly_emitted(way):
    def growing(choose):
        growth = Growth(choose)
        finish(way(growth))
        return growth.draft()

    return sum(weight * emitted(draft, target_probs, 2) for weight, draft in outcomes(growing))


def test_the_upper_layers_of_a_shape():
    shape = sequoia(A, 16, 10)
    for depth in range(1, 6):
        cut = shape.above(depth)
        assert cut.depth() == min(depth, shape.depth())
        assert sorted(cut.ranks) == sorted(
            rank
            for rank, at in zip(shape.ranks, Draft(tuple(range(15)), shape.parents).depths(), strict=True)
            if at < depth
        )
    assert shape.first(7) == sequoia(A, 8, 10)
