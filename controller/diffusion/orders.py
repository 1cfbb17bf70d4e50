"""In which order masks are written: what each position scores, how many are taken, and which."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from ..core.decode import Floats
from ..core.errors import ControllerError

Name = Literal["confidence", "margin", "entropy", "entropy_bound", "random", "left"]
NAMES: tuple[Name, ...] = get_args(Name)

DRAWN: tuple[Name, ...] = ("confidence",)
"""Orders that read the token drawn at a position, so that every candidate position is drawn at each step."""


@dataclass(frozen=True)
class Order:
    """Which positions are written next.

    - `confidence`: where the drawn token is most probable (LLaDA's low-confidence remasking, Dream's `maskgit_plus`).
    - `margin`: where the two most probable tokens are furthest apart (Dream's `topk_margin`).
    - `entropy`: where the distribution's entropy is least (Dream's and DiffuCoder's `entropy`).
    - `entropy_bound`: the positions of least entropy whose sum, without the largest, is at most the bound (Ben-Hamu et
      al. 2025); how many are written then follows from the distributions and not from a number of steps.
    - `random`: any (Dream's `origin`).
    - `left`: the first.

    Raises:
        ControllerError: There is no such order, or a bound or temperature is impossible.

    >>> print(Order("entropy_bound", bound=0.1)), print(Order("left"))
    entropy_bound(0.1)
    left
    (None, None)
    """

    name: Name = "confidence"
    """Which of them."""
    bound: float | None = None
    """Of `entropy_bound`, in nats."""
    temperature: float = 0.0
    """Above 0, positions are drawn from softmax(score / temperature) without replacement (Dream's `alg_temp`)."""

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise ControllerError(f"order is {self.name!r:.40}; choose one of {', '.join(NAMES)}")
        if (self.name == "entropy_bound") != (self.bound is not None):
            raise ControllerError("entropy_bound needs its bound in nats, and it alone has one: entropy_bound(0.1)")
        if self.bound is not None and not (0 <= self.bound < np.inf):
            raise ControllerError(f"entropy_bound is {self.bound}; it must be a number of nats, at least 0")
        if not 0 <= self.temperature < np.inf:
            raise ControllerError(f"order temperature is {self.temperature}; it must be at least 0")
        if self.temperature and self.name in ("random", "left", "entropy_bound"):
            raise ControllerError(f"order temperature is {self.temperature}, and order {self.name} scores no position")

    @property
    def reads_drawn(self) -> bool:
        """The order reads the tokens that were drawn, so a token is drawn at every candidate position."""
        return self.name in DRAWN

    def __str__(self) -> str:
        return self.name if self.bound is None else f"{self.name}({self.bound:g})"


def schedule(masks: int, steps: int) -> list[int]:
    """How many positions each step writes: evenly, the first steps one more (LLaDA's `get_num_transfer_tokens`).

    >>> schedule(10, 4), schedule(2, 4)
    ([3, 3, 2, 2], [1, 1, 0, 0])
    """
    least, more = divmod(masks, steps)
    return [least + (step < more) for step in range(steps)]


def scores_of(order: Order, probs: Floats, drawn: Sequence[int] | None) -> Floats:
    """What each position scores; the largest are written first.

    Args:
        order: Which score; not `random` or `left`.
        probs: shape (positions, vocabulary): the distributions.
        drawn: For `confidence`: the token drawn at each position.

    Returns:
        Shape (positions,). For `entropy` and `entropy_bound`: minus the entropy, in nats.
    """
    if order.name == "confidence":
        assert drawn is not None
        found: Floats = probs[np.arange(len(probs)), list(drawn)]
        return found
    if order.name == "margin":
        top = np.partition(probs, -2, axis=-1)[:, -2:]
        return np.asarray(top[:, 1] - top[:, 0])
    return -entropies(probs)


def entropies(probs: Floats) -> Floats:
    """Entropy of each row, in nats. Shape (rows,)."""
    return np.asarray(-(probs * np.log(np.where(probs > 0, probs, 1.0))).sum(-1))


def by_entropy_bound(entropy: Floats, bound: float) -> list[int]:
    """The rows that an entropy bound accepts, by rising entropy: sum of entropies - largest entropy <= bound.

    The left side bounds the joint mutual information of the tokens, so that drawing them at once costs little (Ben-Hamu
    et al. 2025, arXiv 2505.24857, section 4). At least one row is accepted.

    >>> by_entropy_bound(np.array([0.5, 0.05, 0.04, 2.0]), 0.1)
    [2, 1, 0]
    """
    ranked = np.argsort(entropy, kind="stable")
    before = np.cumsum(entropy[ranked]) - entropy[ranked]
    return [int(row) for row in ranked[before <= bound]] or [int(ranked[0])]


def choose(order: Order, scores: Floats, count: int, uniforms: Callable[[int], float]) -> list[int]:
    """The rows that are written, the first chosen first.

    Args:
        order: Its bound and temperature.
        scores: shape (rows,), from `scores_of`; for `random` and `left` only its length counts.
        count: How many; an entropy bound decides for itself.
        uniforms: The keyed uniform of each row, for `random` and a temperature.
    """
    if order.name == "entropy_bound":
        assert order.bound is not None
        return by_entropy_bound(-scores, order.bound)
    rows = len(scores)
    if order.name == "left":
        return list(range(min(count, rows)))
    keys = np.zeros(rows) if order.name == "random" else np.asarray(scores, dtype=np.float64)
    if order.name == "random" or order.temperature:
        # The largest of score / temperature + Gumbel noise: a draw without replacement from the softmax (Vieira 2014).
        noise = np.array([-np.log(-np.log(max(uniforms(row), 2.0**-53))) for row in range(rows)])
        keys = keys / (order.temperature or 1.0) + noise
    return [int(row) for row in np.argsort(-keys, kind="stable")[:count]]
