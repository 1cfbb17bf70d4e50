"""Truncations: the specification's golden sets."""

from __future__ import annotations

import numpy as np
import pytest

from reasonctl.controller import Chain, MinP, Mirostat, MirostatV2, Temperature, TopH, TopNSigma
from support.golden_vectors import FORMS, TO_4_DECIMALS, F, L, probs_of

CUT = np.where(np.arange(10) < 5, L, -np.inf)


def kept(stage, logits) -> list[int]:
    return np.flatnonzero(probs_of(Chain(stage), logits)).tolist()


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize(
    ("stages", "logits", "ids", "probabilities"),
    [
        ((MinP(0.1),), L, [0, 1, 2, 3], [0.5084, 0.2285, 0.1870, 0.0760]),
        ((MinP(0.05),), L, [0, 1, 2, 3, 4], [0.4881, 0.2193, 0.1796, 0.0730, 0.0401]),
        ((Temperature(2), MinP(0.1)), L, [0, 1, 2, 3, 4, 5], [0.3241, 0.2173, 0.1966, 0.1253, 0.0929, 0.0439]),
        (
            (Temperature(2), MinP(0.05)),
            L,
            [*range(8)],
            [0.3065, 0.2054, 0.1859, 0.1185, 0.0878, 0.0415, 0.0292, 0.0252],
        ),
        ((MinP(0.1), Temperature(2)), L, [0, 1, 2, 3], [0.3754, 0.2517, 0.2277, 0.1452]),
        ((TopNSigma(0.5),), L, [0, 1, 2], None),
        ((TopNSigma(1),), L, [0, 1, 2, 3], [0.5084, 0.2285, 0.1870, 0.0760]),
        ((TopNSigma(1), Temperature(3)), L, [0, 1, 2, 3], [0.3319, 0.2542, 0.2378, 0.1762]),
        ((Temperature(3), TopNSigma(1)), L, [0, 1, 2, 3], [0.3319, 0.2542, 0.2378, 0.1762]),
        ((TopNSigma(1.5),), L, [0, 1, 2, 3, 4], None),
        ((TopNSigma(1),), CUT, [0, 1], None),
        ((TopH(0.3),), L, [0], None),
        ((TopH(0.4),), L, [0], None),
        ((TopH(0.5),), L, [0, 1], None),
        ((TopH(0.8),), L, [0, 1, 2], None),
        ((TopH(0.3, "partial"),), L, [0], None),
        ((TopH(0.4, "partial"),), L, [0], None),
        ((TopH(0.5, "partial"),), L, [0, 1], None),
        ((TopH(0.8, "partial"),), L, [0, 1, 2], None),
        ((TopH(0.3),), F, [0], None),
        ((TopH(0.5),), F, [0, 1], None),
        ((TopH(0.7),), F, [0, 1, 2, 3], None),
        ((TopH(0.9),), F, [*range(6)], None),
        ((TopH(0.3, "partial"),), F, [0], None),
        ((TopH(0.5, "partial"),), F, [0, 1, 2], None),
        ((TopH(0.7, "partial"),), F, [0, 1, 2, 3], None),
        ((TopH(0.9, "partial"),), F, [*range(6)], None),
        ((TopH(0.4),), np.zeros(100), [*range(6)], None),
        ((TopH(1.0),), L, [*range(10)], None),
        ((TopH(1.0, "partial"),), L, [*range(10)], None),
        ((TopH(0.4),), np.array([1, -np.inf, -np.inf]), [0], [1.0]),
        # Mirostat starts with mu = 2 tau: the specification's sets for mu = 6, 3, 2, 0.5.
        ((Mirostat(3),), L, [*range(9)], None),
        ((Mirostat(3, feedback="llama"),), L, [*range(8)], None),
        ((Mirostat(1.5),), L, [0, 1, 2, 3], None),
        ((Mirostat(1.5, feedback="llama"),), L, [0, 1], None),
        ((Mirostat(1.0),), L, [0, 1, 2], None),
        ((Mirostat(1.0, feedback="llama"),), L, [0, 1], None),
        ((MirostatV2(3),), L, [*range(5)], None),
        ((MirostatV2(1.5),), L, [0, 1, 2], None),
        ((MirostatV2(1.0),), L, [0], None),
        ((MirostatV2(0.25),), L, [0], None),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_golden_sets(stages, logits, ids, probabilities, form):
    # The first mirostat's k depends on the size of the vocabulary, which is the specification's 10.
    long = len(form(L)) > len(L) and not isinstance(stages[0], Mirostat)
    row = form(logits) if long else logits.astype(form(logits).dtype)
    got = probs_of(Chain(*stages), row)
    assert np.flatnonzero(got).tolist() == ids
    if probabilities:
        assert got[ids] == pytest.approx(probabilities, abs=TO_4_DECIMALS)


def test_the_documented_top_h_keeps_v_to_the_alpha_of_a_flat_row():
    assert len(kept(TopH(0.4), np.zeros(100))) == int(100**0.4)
    assert len(kept(TopH(0.4), np.zeros(50_000, dtype=np.float32))) == int(50_000**0.4)
    assert len(kept(TopH(0.4, "partial"), np.zeros(1000))) in (39, 40)  # the cap of 100, a rounding tie
