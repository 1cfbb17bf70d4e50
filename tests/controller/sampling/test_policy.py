"""Sampling policies: hand-made laws, a plain reference, transformers' own processors, and the text form."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from transformers import MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from reasonctl.controller import ControllerError, Greedy, PromptLookup, Sampling, draw, parse_draft, parse_policy
from reasonctl.controller.sampling.draw import LogitsRow
from support.golden_vectors import FORMS, TO_4_DECIMALS, L, probs_of


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (Sampling(), [0.4794, 0.2154, 0.1764, 0.0717, 0.0394, 0.0088, 0.0044, 0.0032, 0.0012, 0.0002]),
        (Sampling(temperature=2), [0.3002, 0.2012, 0.1821, 0.1161, 0.0860, 0.0406, 0.0286, 0.0246, 0.0149, 0.0055]),
        (Sampling(min_p=0.1), [0.5084, 0.2285, 0.1870, 0.0760]),
        (Sampling(temperature=2, min_p=0.1), [0.3241, 0.2173, 0.1966, 0.1253, 0.0929, 0.0439]),
        (Sampling(temperature=2, min_p=0.1, temperature_first=False), [0.3754, 0.2517, 0.2277, 0.1452]),
    ],
)
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_golden_laws(policy, expected, form):
    got = probs_of(policy, form(L))
    assert got[: len(expected)] == pytest.approx(expected, abs=TO_4_DECIMALS)
    assert (got[len(expected) :] == 0).all()


def reference(logits, *, temperature, top_k, top_p, min_p, temperature_first) -> list[int]:
    """Kept ids, by full stable sorts."""
    x = logits.astype(np.float64) - logits.max()
    x = x / temperature if temperature_first else x
    ids = np.flatnonzero(x > -np.inf)
    if 0 < top_k < len(ids):
        ids = np.sort(ids[np.argsort(-x[ids], kind="stable")[:top_k]])
    if top_p < 1:
        order = np.argsort(-x[ids], kind="stable")
        mass = np.cumsum(np.exp(x[ids][order]))
        ids = np.sort(ids[order[: int(np.searchsorted(mass, top_p * mass[-1])) + 1]])
    return list(ids[x[ids] >= np.log(min_p)]) if min_p > 0 else list(ids)


def random_case(rng) -> tuple[np.ndarray, dict]:
    size = int(rng.choice([2, 5, 50, 1000, 5000]))
    logits = (rng.normal(size=size) * rng.choice([0.1, 1, 5, 20])).astype(np.float32)
    if rng.random() < 0.3:
        logits[rng.random(size) < 0.3] = -np.inf
        logits[0] = 1
    if rng.random() < 0.3:
        logits = np.round(logits)  # ties
    return logits, dict(
        temperature=float(rng.choice([0.3, 1, 2])),
        top_k=int(rng.choice([0, 1, 5, 40])),
        top_p=float(rng.choice([0.1, 0.5, 0.95, 1])),
        min_p=float(rng.choice([0, 0.05, 0.5])),
        temperature_first=bool(rng.random() < 0.5),
    )


def test_the_head_of_the_row_is_enough():
    rng = np.random.default_rng(0)
    for _ in range(1500):
        logits, options = random_case(rng)
        policy, kept = Sampling(**options), reference(logits, **options)
        assert set(np.flatnonzero(probs_of(policy, logits))) <= set(kept)
        ids = policy.distribution(policy.start(), LogitsRow(logits)).ids
        if ids is not None:
            assert list(ids) == kept


def test_the_kept_sets_are_transformers_own():
    """Temperature first, as there; ties at a cut are left out, where a sort's order decides."""
    rng = np.random.default_rng(1)
    for _ in range(400):
        logits = rng.normal(size=800).astype(np.float32) * 3
        t, k, p, m = (
            rng.choice([0.5, 1.0, 2.0]),
            int(rng.choice([1, 20, 100])),
            rng.choice([0.3, 0.9]),
            rng.choice([0.02, 0.2]),
        )
        row = torch.tensor(logits)[None]
        for warper in (
            TemperatureLogitsWarper(float(t)),
            TopKLogitsWarper(k),
            TopPLogitsWarper(float(p)),
            MinPLogitsWarper(float(m)),
        ):
            row = warper(None, row)
        theirs = np.flatnonzero(np.isfinite(row[0].numpy()))
        ours = Sampling(temperature=float(t), top_k=k, top_p=float(p), min_p=float(m)).probs(logits)
        assert list(theirs) == list(np.flatnonzero(ours))


def test_draw_inverts_the_law():
    weights = np.array([0.0, 1.0, 0.0, 3.0, 0.0])
    assert [draw(weights, u) for u in (0.0, 0.2499, 0.25, 0.9999999)] == [1, 1, 3, 3]
    rng = np.random.default_rng(2)
    counts = np.bincount([draw(weights, u) for u in rng.random(20_000)], minlength=5)
    assert abs(counts[1] - 5000) < 4 * 61 and counts[0] == counts[2] == counts[4] == 0
    for broken in ([np.nan, 1.0], [0.0, 0.0], [np.inf, 1.0]):
        with pytest.raises(ControllerError, match="total mass"):
            draw(np.array(broken), 0.5)


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("greedy", Greedy()),
        ("temperature(0.6)", Sampling(temperature=0.6)),
        (
            " temperature( 0.7 )|top_k(40) | top_p(0.95)|min_p(0.05)",
            Sampling(temperature=0.7, top_k=40, top_p=0.95, min_p=0.05),
        ),
    ],
)
def test_text_form(text, policy):
    assert parse_policy(text) == policy


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tempratur(1)", "did you mean temperature"),
        ("nonsense", "known: greedy"),
        ("temperature", "number in parentheses"),
        ("temperature(x)", "not 'x'"),
        ("temperature(0)", "use greedy"),
        ("top_p(0)", "top_p is 0"),
        ("top_k(1.5)", "whole number"),
        ("min_p(2)", "min_p is 2"),
        ("top_p(0.9)|top_p(0.8)", "twice"),
        ("greedy | top_k(3)", "stands alone"),
        ("", "unknown policy"),
        ("temperature(inf)", "temperature is inf"),
        ("temperature(nan)", "temperature is nan"),
    ],
)
def test_text_mistakes(text, words):
    with pytest.raises(ControllerError, match=re.escape(words)):
        parse_policy(text)


def test_drafts():
    assert parse_draft("none") is None
    assert parse_draft("ngram(5)") == PromptLookup(size=5)
    for text in ("ngram(0)", "ngrm", "ngram(x)", "ngram(2.5)"):
        with pytest.raises(ControllerError):
            parse_draft(text)
