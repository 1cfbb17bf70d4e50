"""Recorded runs drawn from known distributions, for tests of tables and promises."""

from __future__ import annotations

import numpy as np

from reasonctl.probes.risk.table import Table


def simulate(n: int, seed: int, separation: float = 2.2) -> Table:
    """n runs: Poisson(20) cues, a solve time, 4 % lucky or unlucky forced answers, AR(1) and per-run probe errors.

    Cues of a run depend on each other, and its probe errors have a shared part.
    """
    rng = np.random.default_rng(seed)
    lengths = np.maximum(1, rng.poisson(20, n))
    width = lengths.max()
    here = np.arange(width)[None] < lengths[:, None]
    hard = rng.normal(size=n)
    solvable = rng.random(n) < 1 / (1 + np.exp(-(1.6 - 0.8 * hard)))
    solved = np.where(solvable, rng.beta(2 + 0.6 * np.maximum(hard, 0), 2.5), 2.0)
    time = (np.arange(width)[None] + 1) / (lengths[:, None] + 1)
    right = (time >= solved[:, None]) ^ (rng.random((n, width)) < 0.04)
    full = solvable ^ (rng.random(n) < 0.03)
    error = rng.normal(size=(n, width))
    for k in range(1, width):
        error[:, k] = 0.6 * error[:, k - 1] + 0.8 * error[:, k]
    logit = separation * (2 * right - 1) + 0.9 * rng.normal(size=n)[:, None] + 0.9 * error + 0.8 * (time - 0.5)
    same = np.where(right, full[:, None], ~full[:, None] & (rng.random((n, width)) < 0.5))
    tokens = np.broadcast_to(10 * np.arange(width), (n, width))
    offsets, scores = np.concatenate([[0], np.cumsum(lengths)]), 1 / (1 + np.exp(-logit[here]))
    return Table(
        offsets=offsets,
        positions=tokens[here],
        scores=scores,
        right=right[here],
        same=same[here],
        exit_tokens=tokens[here] + 4,
        cue_name=(tokens[here] // 10) % 2,
        full_right=full,
        full_tokens=10 * lengths + 4,
        problem=np.arange(n),
    )


def one_run(scores: list[float], right: list[bool], full_right: bool = True, runs: int = 1) -> Table:
    """The same run `runs` times, as different problems."""
    k = len(scores)
    return Table(
        offsets=np.arange(runs + 1) * k,
        positions=np.tile(np.arange(k), runs),
        scores=np.tile(scores, runs),
        right=np.tile(right, runs),
        same=np.tile(np.array(right) == full_right, runs),
        exit_tokens=np.tile(np.arange(k) + 2, runs),
        cue_name=np.zeros(k * runs),
        problem=np.arange(runs),
        full_right=np.full(runs, full_right),
        full_tokens=np.full(runs, 50),
    )


def flat(scores: np.ndarray, right: np.ndarray, full_right: np.ndarray | None = None) -> Table:
    """Runs of equal length: scores, right: (runs, cues). `same` means that the exit agrees with the full run."""
    n, k = scores.shape
    full = np.ones(n, dtype=bool) if full_right is None else full_right
    position = np.tile(10 * np.arange(k), n)
    return Table(
        offsets=np.arange(n + 1) * k,
        positions=position,
        scores=scores.ravel(),
        right=right.ravel(),
        same=(right == full[:, None]).ravel(),
        exit_tokens=position + 4,
        cue_name=np.zeros(n * k),
        full_right=full,
        full_tokens=np.full(n, 10 * k + 4),
        problem=np.arange(n),
    )


A, B, FULL = 0.3, 0.2, 0.8
"""Shares of runs that are wrong at their first cue only, and at their second only; of full runs that are right."""


def two_cues(n: int, seed: int) -> Table:
    """Two independent cues a run: right ones score U, wrong ones min(U, U')."""
    rng = np.random.default_rng(seed)
    kind = rng.random(n)
    right = np.column_stack([kind >= A, (kind < A) | (kind >= A + B)])
    scores = np.where(right, rng.random((n, 2)), rng.random((2, n, 2)).min(axis=0))
    return flat(scores, right, rng.random(n) < FULL)


def two_cues_risk(mode: str, threshold: np.ndarray) -> np.ndarray:
    """The true risk of `two_cues`, in closed form: shape as threshold's."""
    t = np.clip(threshold, 0.0, 1.0)
    fires = (1 - t) ** 2  # at a wrong cue; at a right one 1 - t
    wrong = A * fires + B * t * fires
    exits = (A + B) * (1 - t * (1 - fires)) + (1 - A - B) * (1 - t**2)
    if mode == "selective":
        return np.divide(wrong, exits, out=np.zeros_like(t), where=exits > 0)
    if mode == "event":
        return fires
    return {"harm": FULL * wrong, "wrong": wrong, "disagree": FULL * wrong + (1 - FULL) * (exits - wrong)}[mode]


def two_cues_envelope(mode: str, threshold: np.ndarray) -> np.ndarray:
    """P(some cue where an exit would fail scores above the threshold), for `harm` and `wrong`."""
    return (FULL if mode == "harm" else 1.0) * (A + B) * (1 - np.clip(threshold, 0.0, 1.0)) ** 2


def two_domains(n: int, seed: int) -> Table:
    """Easy and hard runs, half each: in the hard domain the probe is sure of wrong answers too."""
    easy, hard = simulate(n // 2, seed, 2.2), simulate(n // 2, seed + 1, 0.6)
    parts = {
        name: np.concatenate([getattr(easy, name), getattr(hard, name)])
        for name in easy.arrays()
        if name not in ("offsets", "graded")
    }
    offsets = np.concatenate([easy.offsets, hard.offsets[1:] + easy.cues])
    parts |= {"problem": np.arange(easy.runs + hard.runs), "domain": np.repeat([0, 1], [easy.runs, hard.runs])}
    return Table(**parts, offsets=offsets)
