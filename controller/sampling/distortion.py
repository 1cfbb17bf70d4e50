"""Local normalization distortion: what a chain's renormalising at every token does to whole texts.

A chain draws a token from q = p^a / Z, normalised over the candidates of its row. So it draws a text from p^a over the
product of the rows' Z. The distribution pi is p^a normalised once, over all allowed texts. The two differ by that
product (Kempton and Burrell 2025, "Local Normalization Distortion"). This file computes ln Z of a row and of a run, and
estimates the distance from samples of runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..core.decode import Floats
from ..core.errors import ControllerError
from ..core.probability import softmax
from ..core.trace import Trace
from .candidates import COLDEST, Candidates
from .chain import Chain
from .draw import LogitsRow, Row
from .policy import Policy, StatefulWrapper, WrapperState
from .stage import Stage


def log_z(chain: Chain, logits: Floats, row: Row | None = None) -> float:
    """ln Z of a row of logits, from the chain's first state. Constraints belong to p, so they don't count.

    Args:
        chain: it must end in a draw, see `weighable`.
        logits: shape (vocabulary,).
        row: where the logits stand in a run; None where the chain's stages read nothing but them.

    >>> from reasonctl.controller import TopK
    >>> round(log_z(Chain(TopK(2)), np.log([0.5, 0.3, 0.2])), 4)
    -0.2231
    """
    return _followed(weighable(chain), chain.start(), logits, LogitsRow(logits) if row is None else row).log_z


def weighable(policy: Policy) -> Chain:
    """The policy itself, if its runs have weights.

    Raises:
        ControllerError: it is no chain, takes the largest, or asks for forwards.
    """
    if not isinstance(policy, Chain) or policy.takes_largest:
        raise ControllerError(f"policy {policy} can't be weighed; give one chain that ends in a draw")
    if policy.needs_forwards:
        raise ControllerError(f"policy {policy} can't be weighed: its temperature takes a second forward; leave it out")
    return policy


class Weighed(StatefulWrapper):
    """A chain whose runs leave the sum of ln Z over their drawn tokens in `Trace.log_z`.

    It draws the chain's tokens. The sum is part of the state, so rejected drafts and retracted cues don't count.
    """

    def __init__(self, policy: Policy) -> None:
        self.chain = weighable(policy)
        super().__init__(self.chain)

    def begin(self) -> float:
        return 0.0

    def step(self, state: WrapperState, row: Row) -> tuple[WrapperState, int]:
        weighed = _followed(self.chain, state.inner, row.logits, row)
        token = self.chain.draw(weighed.candidates, row)
        inner = self.chain.accept(weighed.held, weighed.candidates, token)
        return WrapperState(inner, state.own + weighed.log_z), token

    def finish(self, state: WrapperState, trace: Trace) -> None:
        super().finish(state, trace)
        trace.log_z = (trace.log_z or 0.0) + state.own


class _WeighedRow(NamedTuple):
    """What all stages of a chain leave of a row, and the ln Z that they add up to."""

    held: Sequence[Any]
    """Each stage's state before its `accept`."""
    candidates: Candidates
    """What the stages leave."""
    log_z: float
    """ln Z of the row."""


def _followed(chain: Chain, state: Any, logits: Floats, row: Row) -> _WeighedRow:
    """A chain's stages on a row, with the ln Z of each added up."""
    candidates, total, held = Candidates(logits), 0.0, []
    for stage, own in zip(chain.stages, state or [None] * len(chain.stages), strict=True):
        own, after = stage.step(own, candidates, row)
        held.append(own)
        total = _through(stage, total, candidates, after, row)
        candidates = after
    return _WeighedRow(held, candidates, total)


def _through(stage: Stage, total: float, before: Candidates, after: Candidates, row: Row) -> float:
    """ln Z after a stage, from ln Z before it.

    With ln q = a ln p - ln Z, dividing by T and keeping a set A gives ln Z / T + ln sum_A q^(1/T).
    """
    if after is before or stage.kind == "constraint":
        return total
    t = stage.divisor(before, row)
    if t <= COLDEST:
        t = 1.0  # one token is left, and its weight is 1
    # after.logits are relative to the largest before, which a truncation may have dropped.
    log_mass = math.log(after.mass) + float(after.logits.max())
    return total / t + log_mass - math.log(before.mass) / t


@dataclass(frozen=True)
class Distortion:
    """What runs of a chain, q, say about pi, the distribution that is normalised once for whole texts."""

    mean: float
    """E[-sum ln Z], in nats per run."""
    kl: float
    """KL(q || pi), in nats per run."""
    ess: float
    """Effective sample size of the runs as samples of pi, as a share of their number; 1 = no distortion."""


def distortion(log_z: Sequence[float], chances: Sequence[float] | None = None) -> Distortion:
    """The distortion of a chain: KL(q || pi) = ln E[W] - E[ln W], ESS = E[W]^2 / E[W^2] under q, W = exp(log_z).

    Args:
        log_z: ln Z of runs (`Trace.log_z`).
        chances: the probability of each run under q; None for runs that were drawn from it.

    Raises:
        ControllerError: there is no run, or its ln Z isn't finite.
    """
    logs = _checked(log_z)
    share = np.ones(len(logs)) if chances is None else np.asarray(chances, float)
    share = share / share.sum()
    w = np.exp(logs - logs.max())
    first, second = float(share @ w), float(share @ w**2)
    return Distortion(
        mean=-float(share @ logs),
        kl=max(math.log(first) + float(share @ (logs.max() - logs)), 0.0),
        ess=first**2 / second,
    )


def importance_weights(log_z: Sequence[float]) -> Floats:
    """Weights under which runs of a chain average as runs of pi, for voting and any other mean over samples.

    pi / q is the product of the Zs, up to a factor.

    Args:
        log_z: ln Z of runs (`Trace.log_z`).

    Returns:
        Shape (n,), sum 1.

    Raises:
        ControllerError: there is no run, or its ln Z isn't finite.
    """
    return softmax(_checked(log_z))


def _checked(log_z: Sequence[float]) -> Floats:
    logs = np.asarray(log_z, float)
    if not len(logs) or not np.isfinite(logs).all():
        raise ControllerError("weights need ln Z of at least one run, all finite; run under Weighed(chain)")
    return logs
