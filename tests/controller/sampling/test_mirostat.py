"""Mirostat: the specification's fits and updates, and control of the mean surprise on a known law."""

from __future__ import annotations

import math

import numpy as np
import pytest

from reasonctl.controller import Candidates, Chain, Keys, Mirostat, MirostatV2, Row, Temperature
from reasonctl.controller.sampling.stages.mirostat import _zipf
from support.golden_vectors import FORMS, TO_4_DECIMALS, L


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_golden_fit(kind):
    logits = L.astype(kind)
    assert _zipf(np.sort(Candidates(logits).shifted)[::-1]) == pytest.approx(2.0273, abs=TO_4_DECIMALS)
    for mu, size, script, llama in ((6.0, 8.2762, 9, 8), (3.0, 2.9673, 4, 2), (2.0, 2.1080, 3, 2)):
        for feedback in ("model", "llama"):
            assert Mirostat(feedback=feedback).size(Candidates(logits), mu) == pytest.approx(size, abs=TO_4_DECIMALS)
        assert Mirostat().count(Candidates(logits), mu) == script
        assert Mirostat(feedback="llama").count(Candidates(logits), mu) == llama


def test_golden_fit_of_a_zipf_law():
    logits = -1.1 * np.log(np.arange(1, 1001))
    assert _zipf(logits[:101]) == pytest.approx(1.1, abs=TO_4_DECIMALS)
    assert Mirostat().size(Candidates(logits), 6.0) == pytest.approx(10.1740, abs=TO_4_DECIMALS)
    assert Mirostat().count(Candidates(logits), 6.0) == round(10.1740) + 1


def test_rows_without_a_falling_tail_keep_what_there_is():
    for logits in (np.zeros(10), np.array([1.0, -np.inf, -np.inf]), np.where(np.arange(300) < 2, 0.0, -np.inf)):
        possible = int((logits > -np.inf).sum())
        for mu in (-30.0, 0.5, 6.0, 1e3):
            assert 1 <= Mirostat().count(Candidates(logits), mu) <= possible
    assert Mirostat().count(Candidates(np.zeros(10)), 6.0) == 10


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize(("feedback", "surprise", "mu"), [("model", 2.5033, 2.9497), ("llama", 2.3044, 2.9696)])
def test_golden_update(feedback, surprise, mu, form):
    stage = MirostatV2(tau=2.0, eta=0.1, feedback=feedback)
    half, scores = stage.step(3.0, Candidates(form(L)), None)
    assert scores.ids.tolist() == [0, 1, 2]
    after = stage.accept(half, scores, 2)
    assert after == pytest.approx(mu, abs=TO_4_DECIMALS)
    assert 2.0 + (3.0 - after) / 0.1 == pytest.approx(surprise, abs=1e-3)


class Fixed:
    """A Step with the same row for ever."""

    def __init__(self, logits):
        self._logits = logits

    def logits(self, node):
        return self._logits


def mean_surprise(stage, tau: float, n: int = 6000) -> float:
    """Of the drawn tokens under the model's law, in bits, on Zipf's law with exponent 1.1 over 2,000 tokens."""
    logits = -1.1 * np.log(np.arange(1, 2001))
    bits = (Candidates(logits).surprise()) / math.log(2)
    policy, keys, tokens, seen = Chain(stage), Keys(seed=1), [0], []
    state = policy.start()
    for _ in range(n):
        state, token = policy.step(state, Row(Fixed(logits), -1, tokens, "think", keys))
        tokens.append(token)
        seen.append(bits[token])
    return float(np.mean(seen[500:]))


@pytest.mark.parametrize("stage", [Mirostat(4.0), MirostatV2(4.0)], ids=str)
def test_the_mean_surprise_is_tau(stage):
    # Fixed seed. mu feeds back, so that the mean's error shrinks like 1/n: 0.3 % here, where 2 % are allowed.
    assert mean_surprise(stage, 4.0) == pytest.approx(4.0, rel=0.02)


def test_llama_cpp_s_feedback_ends_elsewhere():
    """The specification's simulation: its tau is the surprise after truncation, and the model's is 4.733."""
    assert mean_surprise(MirostatV2(4.0, feedback="llama"), 4.0) == pytest.approx(4.73, rel=0.02)


def test_the_surprise_is_that_of_the_tempered_law():
    tempered = Chain(Temperature(2.0), MirostatV2(2.0))
    half, scores = tempered.candidates(tempered.start(), Row(Fixed(L), -1, [0], "think", Keys(seed=0)))
    after = tempered.stages[1].accept(half[1], scores, 0)
    law = np.exp(L / 2) / np.exp(L / 2).sum()
    assert after == pytest.approx(4.0 - 0.1 * (-math.log2(law[0]) - 2.0), abs=1e-9)
