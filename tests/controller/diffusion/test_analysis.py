"""AR-ness identities, and the likelihood estimate of coupled masks."""

from __future__ import annotations

import numpy as np
import pytest

from reasonctl.controller import Keys
from reasonctl.controller.diffusion import (
    ar_ness,
    coupled_log_prob,
    global_ar_ness,
    independent_log_prob,
    local_ar_ness,
)
from reasonctl.controller.diffusion.coupled import complementary
from support.masked_toys import JointEngine


@pytest.mark.parametrize("k", [1, 2, 5])
def test_from_left_to_right_both_are_one(k):
    assert local_ar_ness(range(20), k) == global_ar_ness(range(20), k) == 1


def test_local_falls_and_global_rises_with_k():
    order = [0, 1, 2, 5, 6, 7, 3, 4, 9, 8, 10, 11]
    found = ar_ness(order, (1, 2, 4))
    local, whole = ([one[i] for one in found.values()] for i in (0, 1))
    assert local == sorted(local, reverse=True) and whole == sorted(whole) and local[0] > local[2]
    assert whole[0] < whole[2] and global_ar_ness(order, len(order)) == 1


def test_by_hand():
    assert local_ar_ness([2, 3, 0, 1, 4]) == 0.5  # 2-3 and 0-1 of four moves
    assert global_ar_ness([2, 3, 0, 1, 4]) == 0.6 and global_ar_ness([2, 3, 0, 1, 4], 3) == 1
    assert global_ar_ness([4, 3, 2, 1, 0], 2) == 0.4


def test_orders_that_repeat_a_place_are_refused():
    with pytest.raises(ValueError):
        local_ar_ness([1, 1])


def estimate(loop, engine):
    request = next(loop)
    while True:
        try:
            request = loop.send(engine.forward([request])[0])
        except StopIteration as done:
            return done.value


def test_a_pair_hides_every_token_exactly_once():
    for pair in range(20):
        hidden = complementary(9, 0.3, Keys(seed=2), pair)
        assert hidden.sum() == 3 and (hidden ^ ~hidden).all()
    assert len({complementary(9, 0.3, Keys(seed=2), pair).tobytes() for pair in range(20)}) > 10


def test_both_estimates_have_one_mean_and_cost_and_coupled_ones_vary_less():
    engine = JointEngine(3, 5, seed=3)
    answer = [int(at) for at in np.unravel_index(engine.joint.argmax(), engine.joint.shape)]
    totals = {}
    for kind in (coupled_log_prob, independent_log_prob):
        found = [estimate(kind([0], answer, engine.mask, Keys(seed=7, run=run)), engine) for run in range(600)]
        assert {one.forwards for one in found} == {3}
        totals[kind] = np.array([one.total for one in found])
    coupled, apart = totals[coupled_log_prob], totals[independent_log_prob]
    error = np.sqrt((coupled.var() + apart.var()) / 600)
    assert abs(coupled.mean() - apart.mean()) < 4 * error  # false alarm: 6e-5
    assert coupled.var() < 0.8 * apart.var()
