"""Truncations: which candidates stay. Each acts on what the stages before it left; at least one token always stays.

transformers truncates after the temperature, llama.cpp before it: the place in the chain says which. Only top-k and
top-n-sigma keep the same set either way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..candidates import Candidates, Indices, head
from ..draw import Row
from ..stage import Pure, require

Rule = Literal["renormalised", "partial"]


class Truncation(Pure):
    """Drops candidates because they are improbable."""

    kind = "truncation"
    truncates = True


@dataclass(frozen=True)
class TopK(Truncation):
    """The k most probable tokens. Exactly k: of tied ones the lowest ids (transformers keeps all that tie)."""

    name = "top_k"
    k: int
    """0 is off."""

    def __post_init__(self) -> None:
        require(self.k >= 0, "top_k", self.k, "0 (off) or more")

    def apply(self, candidates: Candidates, row: Row | None) -> Candidates:
        if self.k == 0:
            return candidates
        return candidates.keep(np.sort(head(candidates.shifted, lambda found: len(found) >= self.k)[: self.k]))


@dataclass(frozen=True)
class TopP(Truncation):
    """The smallest prefix in order of probability that holds mass p (Holtzman et al. 2020)."""

    name = "top_p"
    p: float
    """1 is off."""

    def __post_init__(self) -> None:
        require(0.0 < self.p <= 1.0, "top_p", self.p, "above 0 and at most 1 (off)")

    def apply(self, candidates: Candidates, row: Row | None) -> Candidates:
        if self.p >= 1.0:
            return candidates
        weights, wanted = candidates.weights, self.p * candidates.mass
        found = head(candidates.shifted, lambda found: weights[found].sum(dtype=np.float64) >= wanted)
        return candidates.keep(np.sort(found[: _reach(weights[found], wanted)]))


@dataclass(frozen=True)
class MinP(Truncation):
    """Tokens at least p times as probable as the most probable one (Nguyen et al. 2024)."""

    name = "min_p"
    p: float
    """0 is off."""

    def __post_init__(self) -> None:
        require(0.0 <= self.p <= 1.0, "min_p", self.p, "between 0 (off) and 1")

    def apply(self, candidates: Candidates, row: Row | None) -> Candidates:
        if self.p == 0.0:
            return candidates
        return candidates.keep(np.flatnonzero(candidates.shifted >= math.log(self.p)))


@dataclass(frozen=True)
class Typical(Truncation):
    """Tokens whose surprise is nearest to the entropy, until they hold mass p (Meister et al. 2022).

    Tokens that tie with the last one stay, as in transformers.
    """

    name = "typical"
    p: float
    """1 is off."""

    def __post_init__(self) -> None:
        require(0.0 < self.p <= 1.0, "typical", self.p, "above 0 and at most 1 (off)")

    def apply(self, candidates: Candidates, row: Row | None) -> Candidates:
        if self.p >= 1.0:
            return candidates
        weights, wanted = candidates.weights, self.p * candidates.mass
        near = -np.abs(candidates.surprise() - candidates.entropy)
        near[weights == 0.0] = -np.inf
        found = head(near, lambda found: weights[found].sum(dtype=np.float64) >= wanted)
        last = found[: _reach(weights[found], wanted)][-1]
        return candidates.keep(np.flatnonzero(near >= near[last]))


@dataclass(frozen=True)
class Epsilon(Truncation):
    """Tokens of probability epsilon or more, and the most probable one (Hewitt et al. 2022)."""

    name = "epsilon"
    epsilon: float
    """Least probability of a token that stays, in (0, 1)."""

    def __post_init__(self) -> None:
        require(0.0 < self.epsilon < 1.0, "epsilon", self.epsilon, "above 0 and below 1")

    def apply(self, candidates: Candidates, row: Row | None) -> Candidates:
        return _at_least(candidates, math.log(self.epsilon))


@dataclass(frozen=True)
class Eta(Truncation):
    """Tokens of probability min(epsilon, sqrt(epsilon) exp(-entropy)) or more (Hewitt et al. 2022)."""

    name = "eta"
    epsilon: float
    """Largest value of the bound, in (0, 1); the entropy lowers it."""

    def __post_init__(self) -> None:
        require(0.0 < self.epsilon < 1.0, "eta", self.epsilon, "above 0 and below 1")

    def apply(self, candidates: Candidates, row: Row | None) -> Candidates:
        log = math.log(self.epsilon)
        return _at_least(candidates, min(log, log / 2 - candidates.entropy))


@dataclass(frozen=True)
class TopNSigma(Truncation):
    """Tokens whose logit is within n standard deviations of the largest (top-n-sigma).

    The deviation is the population's over the possible tokens, as in llama.cpp. Temperature doesn't change the set.
    """

    name = "top_n_sigma"
    needs_whole_row = True
    n: float
    """Standard deviations."""

    def __post_init__(self) -> None:
        require(0.0 < self.n < math.inf, "top_n_sigma", self.n, "above 0")

    def apply(self, candidates: Candidates, row: Row | None) -> Candidates:
        return candidates.keep(np.flatnonzero(candidates.shifted >= -self.n * self.deviation(candidates)))

    def deviation(self, candidates: Candidates) -> float:
        """Standard deviation of the logits of possible tokens."""
        shifted = candidates.shifted
        return float(shifted[shifted > -np.inf].std(dtype=np.float64))


_SLACK = 1e-9
_CAP = 100


@dataclass(frozen=True)
class TopH(Truncation):
    """Top-H: the longest prefix in order of probability whose entropy is at most alpha times the whole entropy."""

    name = "top_h"
    alpha: float
    """Share of the entropy, at most 1."""
    rule: Rule = "renormalised"
    """The entropy of a prefix. "renormalised": as a distribution of its own, which is what the method states.
    "partial": its part of the sum -p ln p over the 100 most probable tokens, as in transformers."""

    def __post_init__(self) -> None:
        require(0.0 < self.alpha <= 1.0, "top_h", self.alpha, "above 0 and at most 1")
        require(self.rule in ("renormalised", "partial"), "top_h's rule", self.rule, "renormalised or partial")

    def apply(self, candidates: Candidates, row: Row | None) -> Candidates:
        if self.rule == "renormalised" and self.alpha == 1.0:
            return candidates
        return self._partial(candidates) if self.rule == "partial" else self._renormalised(candidates)

    def _renormalised(self, candidates: Candidates) -> Candidates:
        shifted, weights, budget = (
            candidates.shifted,
            candidates.weights,
            self.alpha * candidates.entropy * (1 + _SLACK),
        )

        def enough(found: Indices) -> bool:
            mass = weights[found].sum(dtype=np.float64)
            # Not "above": without entropy the first token is all there is, and more would be what underflowed to 0.
            return bool(np.log(mass) - weights[found] @ shifted[found] / mass >= budget)

        order = head(shifted, enough)
        # H(prefix) = ln mass - sum(w ln w) / mass grows with every token: the first violation ends it.
        mass = np.cumsum(weights[order], dtype=np.float64)
        entropies = np.log(mass) - np.cumsum(weights[order] * shifted[order], dtype=np.float64) / mass
        return candidates.keep(np.sort(order[: max(int(np.searchsorted(entropies, budget, side="right")), 1)]))

    def _partial(self, candidates: Candidates) -> Candidates:
        order = head(candidates.shifted, lambda found: len(found) >= _CAP)[:_CAP]
        weights = candidates.weights[order].astype(np.float64)
        p = weights / weights.sum()
        parts = np.cumsum(-p * np.log(np.where(p > 0, p, 1.0)))
        return candidates.keep(np.sort(order[: max(int((parts <= self.alpha * parts[-1] * (1 + _SLACK)).sum()), 1)]))


@dataclass(frozen=True)
class XTC(Truncation):
    """Sometimes drops all tokens above a threshold but the least probable of them (llama.cpp's XTC).

    The position's second uniform decides.
    """

    name = "xtc"
    probability: float
    """How often tokens are dropped; 0 is off."""
    threshold: float = 0.1
    """Least probability of a token that is dropped, at most 0.5."""

    def __post_init__(self) -> None:
        require(0.0 <= self.probability <= 1.0, "xtc's probability", self.probability, "between 0 (off) and 1")
        require(0.0 < self.threshold <= 0.5, "xtc's threshold", self.threshold, "above 0 and at most 0.5")

    def apply(self, candidates: Candidates, row: Row) -> Candidates:
        if row.uniform(1) >= self.probability:
            return candidates
        weights = candidates.weights
        above = np.flatnonzero(weights >= self.threshold * candidates.mass)
        if len(above) < 2:
            return candidates
        least = above[np.argsort(-weights[above], kind="stable")[-1]]
        stays = weights > 0.0
        stays[above] = False
        stays[least] = True
        return candidates.keep(np.flatnonzero(stays))


def _reach(weights: np.ndarray, wanted: float) -> int:
    """Number of leading weights whose sum reaches `wanted`."""
    return int(np.searchsorted(np.cumsum(weights, dtype=np.float64), wanted, side="left")) + 1


def _at_least(candidates: Candidates, log: float) -> Candidates:
    """Tokens of at least that log-probability, and the most probable ones."""
    bound = min(log + math.log(candidates.mass), 0.0)
    return candidates.keep(np.flatnonzero(candidates.shifted >= bound))
