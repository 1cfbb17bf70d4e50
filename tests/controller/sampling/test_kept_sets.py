"""The sets that truncations keep, against transformers' processors and llama.cpp's samplers on random rows.

Ties, -inf, one-hot and flat rows among them, three parameters for each rule; each difference is explained or fails. The
slow tests take 10,000 rows for each size of the vocabulary and print how they compare (`-s`).
"""

from __future__ import annotations

import time
from collections import Counter

import numpy as np
import pytest
from llama_cpp import llama_cpp as C
from transformers.generation import logits_process as hf

from reasonctl.controller import (
    XTC,
    Candidates,
    Dynatemp,
    Epsilon,
    Eta,
    MinP,
    Mirostat,
    MirostatV2,
    TopH,
    TopK,
    TopNSigma,
    TopP,
    Typical,
)
from support.library_rows import applied, by_llama, by_transformers, explained, kept_by, rows

SIZES = {"1k-5k": (1_000, 5_000), "32k": (32_000, 32_000), "49k": (49_152, 49_152), "152k": (151_936, 151_936)}
ROWS = {"1k-5k": 140, "32k": 7, "49k": 7, "152k": 2}

MANY = 10_000
"""Rows of each size in the slow tests."""

# Name: our stage, its parameters, how far float32 may move the parameter, the library's own.
TRANSFORMERS = {
    "top_k": (lambda k: TopK(round(k)), (20, 1, 300), 0, hf.TopKLogitsWarper),
    "top_p": (TopP, (0.9, 0.4, 0.99), 1e-4, hf.TopPLogitsWarper),
    "min_p": (MinP, (0.1, 0.02, 0.5), 1e-5, hf.MinPLogitsWarper),
    "typical": (Typical, (0.7, 0.3, 0.95), 1e-4, hf.TypicalLogitsWarper),
    "epsilon": (Epsilon, (3e-4, 1e-5, 0.02), 1e-5, hf.EpsilonLogitsWarper),
    "eta": (Eta, (2e-3, 1e-4, 0.05), 1e-5, hf.EtaLogitsWarper),
    "top_h": (lambda alpha: TopH(alpha, "partial"), (0.4, 0.15, 0.8), 1e-5, hf.TopHLogitsWarper),
}
LLAMA = {
    "top_k": (lambda k: TopK(round(k)), (20, 1, 300), 0, lambda k: lambda n: C.llama_sampler_init_top_k(k)),
    "top_p": (TopP, (0.9, 0.4, 0.99), 1e-4, lambda p: lambda n: C.llama_sampler_init_top_p(p, 1)),
    "min_p": (MinP, (0.1, 0.02, 0.5), 1e-5, lambda p: lambda n: C.llama_sampler_init_min_p(p, 1)),
    # Their sums of as many squares as there are tokens are in float32.
    "top_n_sigma": (
        TopNSigma,
        (1.5, 0.5, 3.0),
        2e-3,
        lambda sigmas: lambda n: C.llama_sampler_init_top_n_sigma(sigmas),
    ),
    "mirostat": (
        lambda tau: Mirostat(tau, feedback="llama"),
        (3.0, 1.0, 5.0),
        1e-4,
        lambda tau: lambda n: C.llama_sampler_init_mirostat(n, 1, tau, 0.1, 100),
    ),
    "mirostat_v2": (
        lambda tau: MirostatV2(tau, feedback="llama"),
        (3.0, 1.0, 5.0),
        1e-5,
        lambda tau: lambda n: C.llama_sampler_init_mirostat_v2(1, tau, 0.1),
    ),
    "typical": (Typical, (0.7, 0.3, 0.95), 1e-4, lambda p: lambda n: C.llama_sampler_init_typical(p, 1)),
    "xtc": (
        lambda threshold: XTC(1.0, threshold),
        (0.05, 0.01, 0.3),
        1e-5,
        lambda threshold: lambda n: C.llama_sampler_init_xtc(1.0, threshold, 1, 7),
    ),
}
SUMMED = {"top_p": 1e-8, "typical": 1e-8, "mirostat_v2": 2e-9, "xtc": 2e-9}
"""llama.cpp adds the row's weights up one by one in float32: so much of the parameter is lost with each token."""

RULES = {"transformers": (TRANSFORMERS, by_transformers), "llama.cpp": (LLAMA, by_llama)}


def undefined(name: str, logits: np.ndarray) -> bool:
    """Rows on which llama.cpp's own arithmetic breaks: 0 log 0, and a Zipf fit without a falling tail."""
    masked = not np.isfinite(logits).all()
    if name == "mirostat" and not masked:
        first = np.partition(logits, -101)[-101:]
        return bool(first.min() == first.max())
    return masked and name in ("typical", "mirostat")


def compare(library: str, size: tuple[int, int], n: int, seed: int) -> Counter:
    """Rows by rule and by how the two sets compare; anything unexplained fails."""
    found: Counter = Counter()
    rules, own = RULES[library]
    for i, shape, logits in rows(size, n, seed):
        scores, possible = Candidates(logits), logits > -np.inf
        for name, (make, values, noise, theirs) in rules.items():
            value = values[i // 7 % len(values)]
            if library == "llama.cpp" and undefined(name, logits):
                found[name, "undefined there"] += 1
                continue
            noise += len(logits) * SUMMED.get(name, 0.0) * (library == "llama.cpp")
            ours, kept = kept_by(make(value), scores), own(theirs(value), logits)
            kept = kept[possible[kept]]
            assert len(ours) and possible[ours].all(), (name, shape)
            reason = "equal" if np.array_equal(ours, kept) else explained(name, logits, make, value, noise, kept)
            assert reason, (name, value, shape, len(logits), len(ours), len(kept), i)
            found[name, reason] += 1
    return found


@pytest.mark.parametrize("library", RULES)
@pytest.mark.parametrize("size", SIZES)
def test_the_kept_sets_are_the_library_s_own(size, library):
    found = compare(library, SIZES[size], ROWS[size], seed=SIZES[size][1])
    equal = sum(count for (_, reason), count in found.items() if reason == "equal")
    assert equal > 0.7 * found.total()


@pytest.mark.slow
@pytest.mark.parametrize("library", RULES)
@pytest.mark.parametrize("size", SIZES)
def test_the_kept_sets_on_many_rows(size, library):
    """About half a minute, 6, 9 and 25 minutes of one core for the two libraries together."""
    n, started = MANY, time.process_time()
    found = compare(library, SIZES[size], n, seed=SIZES[size][1] + 1)
    print(f"\n{library}, {size}: {n} rows, {time.process_time() - started:.0f} s")
    for name in RULES[library][0]:
        counts = {reason: count for (rule, reason), count in sorted(found.items()) if rule == name}
        print(f"  {name}: " + ", ".join(f"{count} {reason}" for reason, count in counts.items()))
        assert sum(counts.values()) == n


def test_a_wrong_rule_is_not_explained_away():
    """A parameter that is off by a few percent leaves sets that nothing explains."""
    wrong = {"min_p": 0.103, "top_p": 0.91, "top_n_sigma": 1.53, "mirostat_v2": 3.2, "typical": 0.72, "top_h": 0.41}
    for name, value in wrong.items():
        library = "transformers" if name in TRANSFORMERS else "llama.cpp"
        make, values, noise, theirs = RULES[library][0][name]
        unexplained = 0
        for _, _, logits in rows((5_000, 5_000), 35, seed=3):
            kept = RULES[library][1](theirs(values[0]), logits)
            if not np.array_equal(kept_by(make(value), Candidates(logits)), kept):
                unexplained += explained(name, logits, make, value, noise, kept) is None
        assert unexplained >= 3, name


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(("tau", "eta"), [(1.5, 0.1), (3.0, 0.4), (5.0, 0.1)])
def test_mirostat_s_updates_are_llama_cpp_s(version, tau, eta):
    """150 tokens of its own choice: where mu went another way, later sets would be others.

    A set may differ by a rounded token at its end, which is counted.
    """
    size, rng, rounded = 4_500, np.random.default_rng(int(10 * tau)), 0
    if version == 1:
        stage, sampler = Mirostat(tau, eta, "llama"), C.llama_sampler_init_mirostat(size, 5, tau, eta, 100)
    else:
        stage, sampler = MirostatV2(tau, eta, "llama"), C.llama_sampler_init_mirostat_v2(5, tau, eta)
    state, sizes = stage.start(), set()
    for _ in range(150):
        logits = (rng.normal(size=size) * rng.choice([1.5, 3.0, 5.0])).astype(np.float32)
        left, selected = applied(sampler, logits)
        half, scores = stage.step(state, Candidates(logits), None)
        different = len(set(left["id"].tolist()) ^ set(scores.ids.tolist()))
        assert different <= 1
        rounded += different
        sizes.add(len(scores.ids))
        state = stage.accept(half, scores, int(left["id"][selected]))
    C.llama_sampler_free(sampler)
    assert rounded <= 3 and len(sizes) >= 10


def tempered(stage: Dynatemp, logits: np.ndarray) -> str:
    """How llama.cpp's tempered logits compare to ours.

    masked counted: llama.cpp normalises the entropy by the number of all tokens, the impossible ones too. rounding: the
    temperature differs by less than 1 %, for its entropy is added up in float32.
    """
    sampler = C.llama_sampler_init_temp_ext(stage.t, stage.range, stage.exponent)
    data, _ = applied(sampler, logits)
    C.llama_sampler_free(sampler)
    theirs = np.empty(len(logits))
    theirs[data["id"]] = data["logit"]
    theirs -= theirs.max()
    scores = Candidates(logits)
    shifted, t = scores.shifted.astype(np.float64), stage.temperature(scores, None)

    def same(t: float, slack: float) -> bool:
        return np.allclose(theirs[finite], shifted[finite] / t, rtol=slack, atol=5e-4)

    finite = np.isfinite(shifted)
    if not np.array_equal(finite, np.isfinite(theirs)):
        return "different"
    if same(t, 5e-4):
        return "equal"
    low, high = max(0.0, stage.t - stage.range), stage.t + stage.range
    counted = low + (high - low) * (scores.entropy / np.log(len(logits))) ** stage.exponent
    if not finite.all() and same(counted, 0.01):
        return "masked counted"
    return "rounding" if same(t, 0.01) else "different"


def dynatemps(size: tuple[int, int], n: int, seed: int) -> Counter:
    """Rows by how the two compare."""
    found: Counter = Counter()
    for i, _, logits in rows(size, n, seed):
        stage = Dynatemp((0.8, 0.3, 1.5)[i % 3], (0.5, 0.0, 0.25)[i // 3 % 3], (1.0, 0.5, 3.0)[i // 9 % 3])
        found[tempered(stage, logits)] += 1
    assert not found["different"]
    return found


@pytest.mark.parametrize("size", SIZES)
def test_dynatemp_is_llama_cpp_s(size):
    found = dynatemps(SIZES[size], ROWS[size], seed=5)
    assert found["equal"] > 0.6 * found.total()


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_dynatemp_on_many_rows(size):
    found = dynatemps(SIZES[size], MANY, seed=6)
    print(f"\ndynatemp, {size}: " + ", ".join(f"{count} {reason}" for reason, count in sorted(found.items())))
