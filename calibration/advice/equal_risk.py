"""Recall and risk of truncations at places whose reasonable continuations are known, and parameters of equal risk.

The method of "Balancing Diversity and Risk in LLM Sampling" (its published code): at a place K* is the rank of the
worst reasonable token; a sampler that keeps K tokens there has recall min(1, K/K*) and risk max(0, K/K* - 1). Counts
only, so no temperature. Ours: a set that skips ranks is scored by how many of its tokens are among the K* best; for
top-K sets that equals the paper's formula. And min-p, top-n-sigma, top-H and typical are compared as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from reasonctl.controller import (
    Candidates,
    ControllerError,
    Epsilon,
    Eta,
    MinP,
    Mirostat,
    MirostatV2,
    Stage,
    TopH,
    TopK,
    TopNSigma,
    TopP,
    Typical,
)
from reasonctl.controller.core import Floats

GRID = 17
"""Parameters at which every family is measured first."""
HALVINGS = 12
"""Further parameters, between the two that enclose a target."""


class PlaceFigures(NamedTuple):
    """What a truncation does at one place."""

    recall: float
    """Share of the K* best tokens that it keeps."""
    risk: float
    """Tokens that it keeps beyond these, per token of K*."""
    log_z: float
    """The logarithm of the probability mass that it keeps, in nats."""


class Place:
    """A row of logits with its reasonable tokens.

    Attributes:
        scores: The row as candidates.
        best: Shape (vocabulary,): whether a token is among the K* best.
        needed: K*, the rank of the worst reasonable token.
    """

    def __init__(self, logits: Floats, tokens: Collection[int]) -> None:
        """Rank the reasonable tokens.

        Args:
            logits: Shape (vocabulary,).
            tokens: Ids of the reasonable tokens; at least one.

        Raises:
            ControllerError: There is no reasonable token.
        """
        if not tokens:
            raise ControllerError("a place without a reasonable token has no recall; leave it out")
        self.scores = Candidates(logits)
        # Ranked by logit, ties by id: the worst of the reasonable tokens ends the best ones.
        worst = max(tokens, key=lambda token: (-logits[token], token))
        ids = np.arange(len(logits))
        self.best = (logits > logits[worst]) | ((logits == logits[worst]) & (ids <= worst))
        self.needed = int(self.best.sum())

    def measure(self, stage: Stage) -> PlaceFigures:
        """What a truncation does here."""
        # Feedback starts where a run does, and no stage of `families` reads more than the logits.
        state, row = stage.start(), None
        _, after = stage.step(state, self.scores, row)  # type: ignore[arg-type]
        ids = self.scores.possible if after.ids is None else after.ids
        inside = int(self.best[ids].sum())
        if after is self.scores:
            log_z = 0.0
        else:
            log_z = float(np.logaddexp.reduce(after.logits.astype(np.float64))) - math.log(self.scores.mass)
        return PlaceFigures(inside / self.needed, (len(ids) - inside) / self.needed, log_z)


@dataclass(frozen=True)
class Measured:
    """A truncation at many places. Errors are standard errors of the mean over places (ddof 0, as published)."""

    policy: str
    """The truncation's text."""
    recall: float
    """Mean recall."""
    recall_error: float
    """Its standard error."""
    risk: float
    """Mean risk."""
    risk_error: float
    """Its standard error."""
    distortion: float
    """Mean of -ln Z, in nats."""
    spread: float
    """Standard deviation of -ln Z over places: this is what distorts."""
    recalls: tuple[float, ...]
    """The recall at each place."""


def measure(stage: Stage, places: Sequence[Place]) -> Measured:
    """Mean recall and risk of a truncation."""
    values = np.array([place.measure(stage) for place in places])
    recall, risk, log_z = values.mean(axis=0)
    errors = values.std(axis=0) / math.sqrt(len(values))
    return Measured(
        str(stage),
        float(recall),
        float(errors[0]),
        float(risk),
        float(errors[1]),
        float(-log_z) + 0.0,
        float(values[:, 2].std()),
        tuple(values[:, 0].tolist()),
    )


@dataclass(frozen=True)
class Family:
    """Truncations of one kind, from the smallest set (u = 0) to the largest (u = 1)."""

    name: str
    """The stage's name."""
    make: Callable[[float], Stage]
    """From a parameter to the truncation."""
    parameter: Callable[[float], float]
    """From u to the parameter."""
    adapts: bool = False
    """Whether the sets move during a run."""

    def at(self, u: float) -> Stage:
        """The truncation at u. Its parameter is rounded, so that users get the number that was measured."""
        return self.make(self.parameter(u))


def _share(u: float) -> float:
    """From 1e-4 to 1 - 1e-6, fine at both ends."""
    return float(f"{1 / (1 + math.exp(-(-9.2 + 23.0 * u))):.6f}")


def _floor(u: float) -> float:
    return float(f"{10 ** (-0.001 - 9.999 * u):.4g}")


def families(vocabulary: int) -> tuple[Family, ...]:
    """Every truncation with one parameter and nested sets."""

    def count(u: float) -> float:
        return float(round(vocabulary**u))

    def wide(u: float) -> float:
        return float(f"{10 ** (-2 + 4 * u):.4g}")

    def bits(u: float) -> float:
        return float(f"{0.01 * 3000**u:.4g}")

    return (
        Family("top_k", lambda v: TopK(int(v)), count),
        Family("top_p", TopP, _share),
        Family("min_p", MinP, _floor),
        Family("typical", Typical, _share),
        Family("epsilon", Epsilon, _floor),
        Family("eta", Eta, _floor),
        Family("top_n_sigma", TopNSigma, wide),
        Family("top_h", TopH, _share),
        Family("mirostat", Mirostat, bits, adapts=True),
        Family("mirostat_v2", MirostatV2, bits, adapts=True),
    )


class Curve:
    """A family at some places, measured once per parameter."""

    def __init__(self, family: Family, places: Sequence[Place]) -> None:
        self.family, self.places = family, places
        self._known: dict[Stage, Measured] = {}
        self.grid = [self.measured(u) for u in np.linspace(0, 1, GRID)]

    def measured(self, u: float) -> Measured:
        """The family at u."""
        stage = self.family.at(float(u))
        if stage not in self._known:
            self._known[stage] = measure(stage, self.places)
        return self._known[stage]

    def points(self) -> list[Measured]:
        """Everything measured so far, by risk."""
        return sorted(self._known.values(), key=lambda found: (found.risk, found.recall))

    def at_risk(self, target: float) -> Measured | None:
        """The truncation whose mean risk is nearest to the target; None if no parameter's risk reaches it.

        Sets are nested, so risk rises with u: halving between two points of the grid finds where it crosses.
        """
        above = next((i for i, found in enumerate(self.grid) if found.risk >= target), None)
        if above is None:
            return None
        low, high = max(above - 1, 0) / (GRID - 1), above / (GRID - 1)
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (low, middle) if self.measured(middle).risk >= target else (middle, high)
        return min((self.measured(low), self.measured(high)), key=lambda found: abs(found.risk - target))


def recommended(found: Sequence[Measured]) -> Measured:
    """The truncation to take among some of equal risk.

    The highest recall wins. Others tie with it if they are within one standard error of the difference over the same
    places; the least risk error decides between these.
    """
    best = max(found, key=lambda one: one.recall)

    def as_good(one: Measured) -> bool:
        gaps = np.array(best.recalls) - np.array(one.recalls)
        return bool(gaps.mean() <= gaps.std() / math.sqrt(len(gaps)))

    return min((one for one in found if as_good(one)), key=lambda one: one.risk_error)
