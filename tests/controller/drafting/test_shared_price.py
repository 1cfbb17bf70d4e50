"""Drafts of runs that share forwards: the price of a draft is the whole batch's."""

from __future__ import annotations

import pytest

from reasonctl.controller import ROOT, Decode, Draft, Hierarchy
from reasonctl.controller.core.decode import Clock
from reasonctl.controller.decoding import drivers
from reasonctl.controller.drafting.planning.payoff import best_part
from support.toy_drafts import CHEAP, TARGET, Fixed, drafter, run

EIGHT_FREE = Fixed({0: {1: 1.0, 8: 1.0, 512: 64.0}})
"""Up to eight rows cost what one costs, as where weights are read once; more cost by the row."""
TREE = Draft((1, 2, 3, 4, 5, 6), (ROOT, 0, 1, ROOT, 3, 0))
VALUES = (0.8, 0.6, 0.5, 0.15, 0.1, 0.05)


def test_a_forward_says_how_many_requests_it_served():
    clocks = [Clock() for _ in range(3)]
    drivers.answer([Decode(TARGET.session(), [1], clock=clock) for clock in clocks])
    assert [(clock.sharing, clock.seconds) for clock in clocks] == [(3, None)] * 3
    drivers.answer([Decode(TARGET.session(), [1], clock=clocks[0])])
    assert clocks[0].sharing == 1 and clocks[0].seconds is not None


def test_a_part_shrinks_with_the_batch():
    sizes = [len(best_part(TREE, VALUES, EIGHT_FREE, 0, leaves=9, size=9, sharing=n)) for n in (1, 2, 4, 16)]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] == 6 and sizes[-1] == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: drafter("chain", size=6, curves=(EIGHT_FREE, CHEAP)),
        lambda: drafter("dyspec", size=6, curves=(EIGHT_FREE, CHEAP)),
        lambda: Hierarchy(curve=EIGHT_FREE),
    ],
    ids=["chain", "dyspec", "hierarchy"],
)
def test_drafting_ends_where_the_batch_is_large(monkeypatch, make):
    drafted = {}
    for sharing in (1, 32):

        def answered(requests, answer=drivers.answer, sharing=sharing):
            steps = answer(requests)
            for request in requests:
                if request.clock is not None:
                    request.clock.sharing = sharing
            return steps

        with monkeypatch.context() as patch:
            patch.setattr(drivers, "answer", answered)
            drafted[sharing] = run(make(), most=200).drafted
    # A run's first plan comes before its first forward, so it knows nothing of the batch yet.
    assert drafted[1] > 5 * drafted[32] and drafted[32] < 40
