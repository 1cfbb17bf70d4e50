"""Golden numbers of the specification that no stage has to itself: laws, entropies, prefix tables, AutoDeco's sizes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from reasonctl.calibration.fitting.heads import TorchHeads
from reasonctl.controller import Candidates, Chain, Temperature, TopH, TopNSigma, TopP
from support.golden_vectors import FORMS, TO_4_DECIMALS, F, L, probs_of


@pytest.fixture(params=FORMS.values(), ids=FORMS)
def form(request):
    return request.param


def near(expected):
    return pytest.approx(expected, abs=TO_4_DECIMALS)


def test_entropies_and_surprises(form):
    scores = Candidates(form(L))
    assert scores.entropy == near(1.3987) and scores.entropy / math.log(2) == near(2.0179)
    assert Candidates(form(F)).entropy == near(2.0120)
    bits = [1.0606, 2.2148, 2.5033, 3.8017, 4.6674, 6.8314, 7.8413, 8.2741, 9.7168, 12.6022]
    assert (scores.surprise() / math.log(2))[:10] == near(bits)
    p = [0.2018, 0.1826, 0.1653, 0.1353, 0.1224, 0.0907, 0.0608, 0.0273, 0.0100, 0.0037]
    assert probs_of(Chain(), form(F))[:10] == near(p)


def test_deviations_of_both_kinds(form):
    """An unbiased deviation, as in the method's released code, is the population's times sqrt(n / (n - 1))."""
    scores, unbiased = Candidates(form(L)), math.sqrt(10 / 9)
    deviation = TopNSigma(1.0).deviation(scores)
    assert deviation == near(2.4427) and deviation * unbiased == near(2.5749)
    for n, population, sample in ((0.5, 3.7786, 3.7126), (1.0, 2.5573, 2.4251), (1.5, 1.3359, 1.1377)):
        assert L[0] - n * deviation == near(population) and L[0] - n * unbiased * deviation == near(sample)
    for n, size in ((0.5, 3), (1.0, 5), (1.5, 5)):
        assert np.flatnonzero(probs_of(Chain(TopNSigma(n * unbiased)), form(L))).tolist() == [*range(size)]


# k, entropy of the renormalised prefix, partial sum.
PREFIXES = {
    "L": (
        L,
        [
            (1, 0.0, 0.3525),
            (2, 0.6191, 0.6832),
            (3, 0.9976, 0.9892),
            (4, 1.1907, 1.1782),
            (5, 1.3111, 1.3055),
            (6, 1.3502, 1.3471),
            (7, 1.3725, 1.3708),
            (8, 1.3898, 1.3893),
            (9, 1.3973, 1.3973),
        ],
    ),
    "F": (
        F,
        [
            (1, 0.0, 0.3230),
            (2, 0.6919, 0.6335),
            (3, 1.0953, 0.9310),
            (4, 1.3759, 1.2017),
            (5, 1.5928, 1.4588),
            (6, 1.7592, 1.6765),
            (7, 1.8839, 1.8467),
            (8, 1.9583, 1.9451),
            (9, 1.9950, 1.9913),
        ],
    ),
}


@pytest.mark.parametrize("name", PREFIXES)
def test_prefix_tables_of_top_h(name, form):
    """A budget just above a prefix's entropy keeps it, one just below doesn't: so both tables hold to 4 decimals."""
    logits, table = PREFIXES[name]
    total = Candidates(logits).entropy
    for k, renormalised, partial in table:
        for rule, entropy in (("renormalised", renormalised), ("partial", partial)):
            for step, least in ((TO_4_DECIMALS, k), (-TO_4_DECIMALS, k - 1)):
                alpha = (entropy + step) / total
                if 0 < alpha <= 1:
                    kept = np.flatnonzero(probs_of(Chain(TopH(alpha, rule)), form(logits)))
                    assert len(kept) == max(least, 1), (k, rule, step)


def test_autodeco_s_law(form):
    """Hard top-p 0.9 at temperature 0.8."""
    p = [0.5545, 0.2040, 0.1589, 0.0516, 0.0244, 0.0037, 0.0016, 0.0011, 0.0003, 0.0]
    found = probs_of(Chain(Temperature(0.8)), form(L))
    assert found[:10] == near(p)
    assert np.cumsum(found)[:10] == near([0.5545, 0.7585, 0.9174, 0.9689, 0.9933, 0.9970, 0.9986, 0.9997, 1.0, 1.0])
    hard = probs_of(Chain(Temperature(0.8), TopP(0.9)), form(L))
    assert hard[:3] == near([0.6045, 0.2224, 0.1732]) and not hard[3:].any()


@pytest.mark.parametrize(
    ("width", "count"), [(4096, 2_099_458), (3584, 1_837_314), (2880, 1_476_866), (2048, 1_050_882)]
)
def test_autodeco_s_parameters(width, count):
    assert sum(parameter.numel() for parameter in TorchHeads(width, 256, seed=0).parameters()) == count


def test_long_rows_add_their_entropy_up_in_float32_and_lose_little():
    """What docs/policies.md says: below 1e-5 of it, on rows of 151,936 tokens."""
    rng = np.random.default_rng(1)
    for spread in (0.0, 0.05, 2.0, 6.0):
        logits = rng.normal(size=151_936) * spread
        whole = logits - logits.max()
        p = np.exp(whole) / np.exp(whole).sum()
        expected = -float(p @ np.log(p))
        assert Candidates(logits.astype(np.float32)).entropy == pytest.approx(expected, rel=1e-5)
        assert Candidates(logits.astype(np.float32)).mass == pytest.approx(float(np.exp(whole).sum()), rel=1e-6)
