"""What differences between ways of asking are worth: paired tests on the same questions, and a chooser without bias."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .mcq import CellResult
from .paired import discordant, holm, mcnemar

SIMULATIONS = 1000
"""Draws of a chooser without bias."""
_AT_ONCE = 1 << 20
"""Most choices that are drawn at a time."""


@dataclass(frozen=True)
class Paired:
    """A cell against another one on the same questions."""

    gained: int
    """Questions that only this cell answers rightly."""
    lost: int
    """Questions that only the other one answers rightly."""
    p: float
    """The exact two-sided McNemar test."""
    adjusted: float
    """The same, after Holm over all debiased cells of the job."""


def paired(one: CellResult, other: CellResult) -> Paired:
    """A cell against another one; nothing is adjusted."""
    gained, lost = discordant(one.right, other.right)
    p = mcnemar(gained, lost)
    return Paired(gained, lost, p, p)


def plain(found: Sequence[CellResult], one: CellResult) -> CellResult | None:
    """The same cell without debiasing."""
    wanted = vars(one.cell) | {"debias": "none"}
    return next((other for other in found if vars(other.cell) == wanted), None)


def against_plain(found: Sequence[CellResult]) -> list[Paired | None]:
    """Every debiased cell against its `none` cell; None where there is no pair."""
    pairs = [None if one.cell.debias == "none" else plain(found, one) for one in found]
    tests = [None if other is None else paired(one, other) for one, other in zip(found, pairs, strict=True)]
    adjusted = iter(holm([test.p for test in tests if test is not None]))
    return [None if test is None else Paired(test.gained, test.lost, test.p, next(adjusted)) for test in tests]


@dataclass(frozen=True)
class Unbiased:
    """What a chooser gives that prefers no letter: as often right and unread as the cell, whatever letter is right."""

    distance: tuple[float, float]
    """Total variation: its mean and its 95 % quantile."""
    recall_sd: tuple[float, float]
    """RStd: its mean and its 95 % quantile."""

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {name: {"mean": mean, "q95": high} for name, (mean, high) in vars(self).items()}


def unbiased(one: CellResult) -> Unbiased:
    """Simulate a chooser without bias on the cell's questions; the same for the same cell.

    In each draw as many questions are answered rightly, and as many not read, as in the cell: chosen evenly among all.
    Wrong letters are drawn evenly from the wrong ones. Without any letter read both are NaN and 0.
    """
    m, n = len(one.bias.gold), one.n
    gold = np.array(["ABCDEFGHIJ".index(letter) for letter in one.gold])
    right, read = sum(one.right), sum(map(bool, one.letters))
    rng, at_once = np.random.default_rng(0), max(1, _AT_ONCE // n)
    distances, recalls = list[float](), list[float]()
    counts = np.array(one.bias.gold)
    present = counts > 0
    for first in range(0, SIMULATIONS, at_once):
        size = min(at_once, SIMULATIONS - first)
        rank = rng.random((size, n)).argsort(axis=1)
        wrong = (gold + rng.integers(1, m, (size, n))) % m
        chosen = np.where(rank < right, gold, np.where(rank < read, wrong, -1))
        letters = np.arange(m)[:, None, None]
        share = (chosen == letters).sum(axis=2) / max(read, 1)
        found = ((chosen == letters) & (gold == letters)).sum(axis=2)[present] / counts[present, None]
        distances += (np.abs(share - counts[:, None] / n).sum(axis=0) / 2).tolist()
        recalls += found.std(axis=0).tolist()
    both = (np.array(distances) if read else np.full(SIMULATIONS, np.nan)), np.array(recalls)
    distance, recall = ((float(each.mean()), float(np.quantile(each, 0.95))) for each in both)
    return Unbiased(distance, recall)
