"""The users' warning: false as rarely as it says, at whatever share users call wrong, and raised where exits are."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest, fisher_exact

from reasonctl.controller.audits.verdicts import FIRST, LEVEL, exits_fare_worse, turn_of


def warned(rng: np.random.Generator, wrong: tuple[float, float], exited: float, verdicts: int) -> bool:
    """Whether a stream of verdicts ever warns. wrong: the shares of others and of exited runs that are called wrong."""
    made = rng.random(verdicts) < exited
    bad = rng.random(verdicts) < np.where(made, wrong[1], wrong[0])
    kinds = (made & ~bad, made & bad, ~made & ~bad, ~made & bad)
    return any(exits_fare_worse(*(int(kind[:n].sum()) for kind in kinds)) for n in range(FIRST, verdicts + 1, FIRST))


@pytest.mark.parametrize(("share", "exited"), [(0.5, 0.5), (0.1, 0.8), (0.9, 0.3)])
def test_a_warning_is_false_as_rarely_as_it_says(share, exited):
    """Fixed seed; 400 streams of 160 verdicts, at whatever share users call both kinds wrong alike."""
    rng = np.random.default_rng(5)
    found = sum(warned(rng, (share, share), exited, 160) for _ in range(400))
    assert binomtest(found, 400, LEVEL, "greater").pvalue > 0.01


def test_exits_that_are_called_wrong_more_often_are_warned_of_and_better_ones_never():
    rng = np.random.default_rng(6)
    assert sum(warned(rng, (0.1, 0.5), 0.5, 160) for _ in range(40)) >= 38
    assert not any(warned(rng, (0.5, 0.1), 0.5, 160) for _ in range(40))


def test_it_is_fishers_test_at_the_level_of_its_turn():
    for table in ((3, 7, 9, 1), (5, 5, 9, 1), (12, 18, 9, 1), (30, 10, 36, 4), (25, 15, 38, 2)):
        exited_right, exited_wrong, full_right, full_wrong = table
        test = turn_of(sum(table))
        p = fisher_exact([[exited_wrong, exited_right], [full_wrong, full_right]], "greater").pvalue
        assert test and exits_fare_worse(*table) == (p <= LEVEL / 2**test)
    assert [n for n in range(200) if turn_of(n)] == [FIRST, 2 * FIRST, 4 * FIRST, 8 * FIRST]
    assert not exits_fare_worse(0, 10, 10, 1)  # no test is made at 21
