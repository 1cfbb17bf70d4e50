"""Rows for comparisons with the libraries, what their processors and samplers leave of one, and why that may differ."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator

import numpy as np
import torch
from llama_cpp import llama_cpp as C

from reasonctl.controller import Candidates

SHAPES = ("normal", "sharp", "tied", "masked", "flat", "one-hot", "tail")
CANDIDATE = np.dtype([("id", np.intc), ("logit", np.single), ("p", np.single)], align=True)


def rows(size: tuple[int, int], n: int, seed: int) -> Iterator[tuple[int, str, np.ndarray]]:
    """(number, shape, float32 logits) of n rows whose lengths lie in `size`."""
    rng = np.random.default_rng(seed)
    for i in range(n):
        shape, length = SHAPES[i % len(SHAPES)], int(rng.integers(size[0], size[1] + 1))
        spread = {"normal": 2.0, "sharp": 6.0, "flat": 0.05}.get(shape, 3.0)
        logits = rng.standard_normal(length, dtype=np.float32) * np.float32(spread)
        if shape == "tied":
            logits = np.round(logits)
        if shape == "masked":
            logits[rng.random(length, dtype=np.float32) < 0.6] = -np.inf
            logits[int(rng.integers(length))] = 4.0
        if shape == "flat" and i % 2:
            logits[:] = 1.5
        if shape == "one-hot":
            logits[:] = -np.inf
            logits[int(rng.integers(length))] = 0.3
        if shape == "tail":
            logits = (-1.3 * np.log(1.0 + rng.permutation(length))).astype(np.float32)
        yield i, shape, logits


class Uniform:
    """A row of which a stage reads no more than the uniform."""

    def uniform(self, index=0):
        return 0.5


def kept_by(stage, scores: Candidates) -> np.ndarray:
    """Ids that a first step leaves, ascending."""
    _, left = stage.step(stage.start(), scores, Uniform())
    return left.possible if left.ids is None else left.ids[left.possible]


def by_transformers(warper, logits: np.ndarray) -> np.ndarray:
    """Ids that a processor of transformers leaves, ascending."""
    return np.flatnonzero(warper(None, torch.from_numpy(logits.copy())[None])[0].numpy() > -np.inf)


def candidates(logits: np.ndarray) -> tuple[np.ndarray, C.llama_token_data_array]:
    """llama.cpp's array of a row; the first is its memory."""
    data = np.zeros(len(logits), dtype=CANDIDATE)
    data["id"], data["logit"] = np.arange(len(logits)), logits
    pointer = ctypes.cast(data.ctypes.data, ctypes.POINTER(C.llama_token_data))
    return data, C.llama_token_data_array(data=pointer, size=len(data), selected=-1, sorted=False)


def applied(sampler, logits: np.ndarray) -> tuple[np.ndarray, int]:
    """(what a sampler leaves: candidates in its own order, the one that it has selected)."""
    data, array = candidates(logits)
    C.llama_sampler_apply(sampler, ctypes.byref(array))
    # The array may begin elsewhere now: XTC moves its pointer.
    first = (ctypes.addressof(array.data.contents) - data.ctypes.data) // CANDIDATE.itemsize
    return data[first : first + array.size], int(array.selected)


def by_llama(make: Callable[[int], object], logits: np.ndarray) -> np.ndarray:
    """Ids that a sampler of llama.cpp leaves, ascending."""
    sampler = make(len(logits))
    left, _ = applied(sampler, logits)
    C.llama_sampler_free(sampler)
    return np.sort(left["id"][left["logit"] > -np.inf])


ULPS = 5e-5
"""Rounding of a log-probability in float32."""


def ranks(name: str, logits: np.ndarray) -> np.ndarray:
    """What the rule sorts by, largest first."""
    x = logits.astype(np.float64)
    shifted = x - x.max()
    if name != "typical":
        return shifted
    p = np.exp(shifted) / np.exp(shifted).sum()
    surprise = -np.log(p, where=p > 0, out=np.full(len(p), -np.inf))
    return np.where(p > 0, -np.abs(surprise - (p * np.where(p > 0, surprise, 0)).sum()), -np.inf)


def lost_entropy(logits: np.ndarray) -> float:
    """How far the entropy is off where it is added up in float32 one by one, largest first, as llama.cpp does."""
    x = np.sort(logits.astype(np.float64))[::-1]
    whole, weights = np.exp(x - x[0]), np.exp((x - x[0]).astype(np.float32))
    p, q = whole / whole.sum(), weights / np.cumsum(weights)[-1]
    exact = -(p * np.log(p, where=p > 0, out=np.zeros_like(p))).sum()
    return abs(float(np.cumsum(-q * np.log(q, where=q > 0, out=np.zeros_like(q)))[-1] - exact))


def explained(name: str, logits: np.ndarray, make, value: float, noise: float, theirs: np.ndarray) -> str | None:
    """Why their set differs from ours, checked on the row; None if nothing explains it. Every rule here is monotone.

    ties: one side keeps all tokens that tie with the last one, the other keeps some of them.
    rounding: theirs lies between our sets for the parameter a little smaller and a little larger.
    """
    rank = ranks(name, logits)
    slack = ULPS if name != "typical" else 20 * ULPS + 2 * lost_entropy(logits)
    left = np.zeros(len(logits), dtype=bool)
    left[theirs] = True

    def between(few: np.ndarray, many: np.ndarray) -> bool:
        last, least, end = rank[few].min(), rank[many].min(), rank[theirs].min()
        inside = few[rank[few] > last + slack]
        around = bool((rank[theirs] >= least - slack).all())
        return bool(left[inside].all()) and around and least - slack <= end <= last + slack

    def swapped(ours: np.ndarray) -> bool:
        return len(ours) == len(theirs) and bool((np.sort(rank[ours]) == np.sort(rank[theirs])).all())

    sets = [kept_by(make(v), Candidates(logits)) for v in (value, value * (1 - noise), value * (1 + noise))]
    if between(sets[0], sets[0]) or swapped(sets[0]):
        return "ties"
    if any(np.array_equal(other, theirs) for other in sets[1:]):
        return "rounding"
    return "rounding" if between(min(sets, key=len), max(sets, key=len)) else None
