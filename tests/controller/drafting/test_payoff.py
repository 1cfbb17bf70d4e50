"""How much of a tree pays: the best part by what it costs, by how likely it is accepted and by what may be lost."""

from __future__ import annotations

import itertools

import pytest

from reasonctl.controller import ROOT, Draft
from reasonctl.controller.drafting.planning.cost import CostCurve, SharedCurve
from reasonctl.controller.drafting.planning.payoff import CAUTION, MARGIN, best_part

FLAT = CostCurve({0: {1: 1.0, 32: 1.0}})
LINEAR = CostCurve({0: {1: 1.0, 32: 32.0}})
TREE = Draft((1, 2, 3, 4, 5, 6), (ROOT, 0, 1, ROOT, 3, 0))
VALUES = (0.8, 0.6, 0.5, 0.15, 0.1, 0.05)


def promise(nodes, curve):
    """Times plain decoding, less the caution that the further rows ask for; plain forwards cost 1."""
    price = curve.at(1 + len(nodes))
    return (1 + sum(VALUES[n] for n in nodes)) / price - CAUTION * (price - 1)


def subtrees(draft):
    for size in range(len(draft) + 1):
        for nodes in itertools.combinations(range(len(draft)), size):
            if all(draft.parents[n] == ROOT or draft.parents[n] in nodes for n in nodes):
                yield nodes


@pytest.mark.parametrize("slope", [0.0, 0.05, 0.12, 0.3, 0.55, 0.7, 1.0])
def test_the_best_part_is_the_best_of_all_subtrees(slope):
    curve = CostCurve({0: {1: 1.0, 2: 1.0 + slope, 32: 1.0 + 31 * slope}})
    found = best_part(TREE, VALUES, curve, 0, leaves=99, size=99)
    best = max(promise(nodes, curve) for nodes in subtrees(TREE))
    drafted = promise([TREE.tokens.index(token) for token in found.tokens], curve)
    assert drafted == pytest.approx(best) if best > MARGIN else len(found) == 0


def test_dear_rows_ask_for_more_than_cheap_ones():
    """The same promise of 1.05 times plain: taken where it costs a tenth of a step more, left where it costs nine."""
    one = Draft((1,), (ROOT,))
    for price, drafts in ((1.1, True), (1.9, False)):
        curve = CostCurve({0: {1: 1.0, 2: price}})
        assert bool(best_part(one, [1.05 * price - 1], curve, 0, leaves=1, size=9).tokens) is drafts


def test_what_does_not_pay_is_not_drafted():
    assert len(best_part(TREE, VALUES, FLAT, 0, leaves=99, size=99)) == 6
    assert len(best_part(TREE, VALUES, LINEAR, 0, leaves=99, size=99)) == 0


def test_a_part_has_no_more_nodes_than_fit():
    for size in range(7):
        assert len(best_part(TREE, VALUES, FLAT, 0, leaves=99, size=size)) == size


def test_a_part_risks_no_more_than_may_be_lost():
    curve = CostCurve({0: {1: 1.0, 7: 1.6}})
    for losses, most in ((0.05, 0), (0.1, 1), (0.25, 2), (0.45, 4), (9.0, 6)):
        assert len(best_part(TREE, [0.9] * 6, curve, 0, leaves=99, size=99, losses=losses + 1e-9)) == most
    # A larger number of rows may be the cheaper one: two cost more than four here.
    odd = CostCurve({0: {1: 1.0, 2: 2.0, 4: 1.7, 7: 1.7}})
    assert len(best_part(TREE, [0.9] * 6, odd, 0, leaves=99, size=99, losses=0.8)) > 2


def test_where_accepted_tokens_are_fed_again_a_rejection_has_its_price():
    """Of three nodes with chance 0.5 each, 0.5 + 0.25 + 0.125 are accepted on average, and all with chance 0.125."""
    curve = SharedCurve(CostCurve({0: {1: 1.0, 2: 1.5, 4: 2.5}}), 1, cuts=2)
    in_part = (0.875 - 3 * 0.125) / 0.875  # nodes accepted where not all are; 0.57, so one of them
    assert curve.drafted(3, 0, 0.875, 0.125) == pytest.approx(2.5 + 0.875 * curve.now(1 + round(in_part), 0))
    assert curve.drafted(3, 0, 3.0, 1.0) == SharedCurve(curve.curve, 1).drafted(3, 0, 0.875, 0.125) == 2.5
    assert curve.drafted(2, 0, 0.75, 0.25) == 2.0 < SharedCurve(curve.curve, 1, cuts=1).drafted(2, 0, 0.75, 0.25)
    chain = Draft.chain([1, 2, 3])
    for chance in (0.5, 0.7, 0.9, 0.99):
        values = [chance, chance**2, chance**3]
        cheap, dear = (best_part(chain, values, FLAT, 0, leaves=1, size=9, cuts=cuts) for cuts in (3, 0))
        assert len(cheap) == 3 and len(dear) == (3 if chance >= 0.7 else 0)
    assert not best_part(chain, [0.99] * 3, FLAT, 0, leaves=1, size=9, losses=0.9, cuts=0).tokens


def test_leaves_of_a_part_are_bounded():
    for leaves in (1, 2, 3):
        found = best_part(TREE, VALUES, FLAT, 0, leaves=leaves, size=99)
        assert len(set(range(len(found))) - set(found.parents)) == leaves
    assert best_part(TREE, VALUES, FLAT, 0, leaves=1, size=99).tokens == (1, 2, 3)
