"""Paired comparisons: exact McNemar against statsmodels' values, influence rates, flips."""

from __future__ import annotations

import pytest

from reasonctl.calibration.diagnostics.paired import Graded, compare, holm, mcnemar

RIGHT, WRONG = Graded("4", True), Graded("5", False)


@pytest.mark.parametrize(
    ("gained", "lost", "p"),
    [(1, 7, 0.0703125), (0, 5, 0.0625), (12, 3, 0.03515625), (4, 4, 1.0), (20, 35, 0.05806414679240905)],
)
def test_mcnemar_is_statsmodels(gained: int, lost: int, p: float) -> None:
    """Values of statsmodels 0.15.0: mcnemar([[30, gained], [lost, 10]], exact=True).pvalue."""
    assert mcnemar(gained, lost) == pytest.approx(p, rel=1e-9)
    assert mcnemar(lost, gained) == pytest.approx(p, rel=1e-9)


def test_accuracy_can_be_flat_while_answers_change() -> None:
    """Three gained and three lost: the accuracy stays, and the influence rate doesn't."""
    clean, other = [RIGHT] * 5 + [WRONG] * 5, [WRONG] * 3 + [RIGHT] * 2 + [RIGHT] * 3 + [WRONG] * 2
    found = compare(clean, other, [a.answer == b.answer for a, b in zip(clean, other, strict=True)])
    assert found.accuracy.rate == found.clean_accuracy.rate == 0.5
    assert (found.gained, found.lost, found.influence.rate, found.p) == (3, 3, 0.6, 1.0)


def test_flips_count_a_wrong_answer_that_becomes_another_one() -> None:
    other = Graded("6", False)
    found = compare([WRONG, WRONG, RIGHT], [other, WRONG, WRONG], [False, True, False])
    assert found.influence.rate == pytest.approx(1 / 3) and found.flips.rate == pytest.approx(2 / 3)


def test_the_same_runs_have_no_influence() -> None:
    found = compare([RIGHT, WRONG], [RIGHT, WRONG], [True, True])
    assert found.influence.rate == found.flips.rate == 0 and found.p == 1
    assert found.influence.high > 0.5, "two problems exclude little"


def test_holm_keeps_the_order_and_never_lowers_a_value() -> None:
    """Worked by hand: 3 x 0.01, 2 x 0.02, then the largest value so far."""
    assert holm([0.02, 0.01, 0.03]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
