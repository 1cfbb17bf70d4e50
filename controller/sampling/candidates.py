"""Candidates: what a chain passes from stage to stage.

This file has the numerics of a row: centring, weights and entropy, each computed once, and a sort of no more of the row
than is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ..core.decode import Floats
from ..core.errors import ControllerError
from ..core.probability import entropy_of

Indices = npt.NDArray[np.intp]

_SHORT = 4096
"""Rows below this length are computed in float64: it costs nothing there."""

_DEPTHS = (3.0, 5.0, 8.0, 10.0, 12.0, 14.0, 16.0, 20.0, 24.0, 32.0, 48.0, 104.0, np.inf)
"""At 104 the weights of float32 have underflowed to 0."""

COLDEST = 1e-4
"""At and below this temperature the most probable token is taken; the lowest id wins ties."""


class Candidates:
    """The tokens that may be drawn at a row, and their logits. A value: it is never changed in place.

    >>> candidates = Candidates(np.array([0.0, 1.0, -np.inf]))
    >>> candidates.weights.round(4).tolist(), candidates.keep(np.array([1])).token(0)
    ([0.3679, 1.0, 0.0], 1)
    """

    __slots__ = ("_entropy", "_mass", "_shifted", "_weights", "_whole", "ids", "logits", "temperature")

    logits: Floats
    """Shape (n,)."""
    ids: Indices | None
    """Shape (n,), ascending: the token of each logit. None: all tokens of the vocabulary, -inf where impossible."""
    temperature: float
    """What the logits of `whole` were divided by; 1 where nothing divided them."""

    def __init__(
        self,
        logits: Floats,
        ids: Indices | None = None,
        *,
        centred: bool = False,
        whole: Candidates | None = None,
        temperature: float = 1.0,
    ) -> None:
        """Take a row.

        Args:
            logits: shape (n,).
            ids: shape (n,), ascending; None for a whole row.
            centred: the largest logit is 0 already.
            whole: the row before any truncation or temperature; None where this is it.
            temperature: what its logits were divided by.
        """
        self.logits = logits
        self.ids = ids
        self.temperature = temperature
        self._whole = whole
        self._shifted = logits if centred else None
        self._weights: Floats | None = None
        self._mass: float | None = None
        self._entropy: float | None = None

    @property
    def whole(self) -> Candidates:
        """The row before any truncation or temperature."""
        return self if self._whole is None else self._whole

    @property
    def shifted(self) -> Floats:
        """Shape (n,): logits relative to the largest one.

        Raises:
            ControllerError: a logit is NaN or +inf, or no token is possible.
        """
        if self._shifted is None:
            logits = computed(self.logits) if self.ids is None else self.logits
            top = logits.max()
            check_largest(top)
            self._shifted = logits - top
        return self._shifted

    @property
    def weights(self) -> Floats:
        """Shape (n,): exp(shifted), probabilities up to a factor."""
        if self._weights is None:
            self._weights = np.exp(self.shifted)
        return self._weights

    @property
    def mass(self) -> float:
        """Sum of the weights; at least 1."""
        if self._mass is None:
            self._mass = float(self.weights.sum(dtype=np.float64))
        return self._mass

    @property
    def entropy(self) -> float:
        """In nats, in the precision of `shifted`; candidates of probability 0 count as absent."""
        if self._entropy is None:
            self._entropy = entropy_of(self.shifted, self.weights, self.mass)
        return self._entropy

    @property
    def possible(self) -> Indices:
        """Positions of the tokens that are possible."""
        return np.flatnonzero(self.shifted > -np.inf)

    def surprise(self) -> Floats:
        """Shape (n,): -ln p, in nats."""
        surprise: Floats = np.log(self.mass) - self.shifted
        return surprise

    def keep(self, positions: Indices) -> Candidates:
        """Only these positions (ascending)."""
        ids = positions if self.ids is None else self.ids[positions]
        return Candidates(self.shifted[positions], ids, whole=self.whole, temperature=self.temperature)

    def keep_top(self) -> Candidates:
        """Only the most probable candidate; the lowest id wins ties."""
        return self.keep(np.array([int(self.shifted.argmax())]))

    def tempered(self, temperature: float) -> Candidates:
        """All logits divided by a temperature; at COLDEST and below only the most probable candidate."""
        if temperature == 1.0:
            return self
        if temperature <= COLDEST:
            top = self.keep_top()
            top.temperature = temperature
            return top
        product = self.temperature * temperature
        return Candidates(self.shifted / temperature, self.ids, centred=True, whole=self.whole, temperature=product)

    def dense(self, size: int) -> Floats:
        """Shape (size,), float64, sum 1: the probability of every token, 0 for those that are no candidates."""
        probs = np.zeros(size)
        probs[slice(len(self.weights)) if self.ids is None else self.ids] = self.weights
        probs /= probs.sum()
        return probs

    def token(self, position: int) -> int:
        """The token id at a position."""
        return position if self.ids is None else int(self.ids[position])

    def position(self, token: int) -> int:
        """The position of a candidate."""
        return token if self.ids is None else int(np.searchsorted(self.ids, token))


def computed(logits: Floats) -> Floats:
    """Whole rows, shape (..., vocabulary), in the precision in which they are computed."""
    return logits.astype(np.float64) if logits.shape[-1] < _SHORT else logits


def check_largest(logit: float) -> None:
    """Raises ControllerError if the largest logit of a row says that nothing can be drawn from it."""
    if logit == -np.inf:
        raise ControllerError("no token is allowed here: the constraints of this call have removed all of them")
    if not logit < np.inf:
        raise ControllerError(f"the sampling distribution is broken: its largest logit is {logit} (bad processor?)")


def head(rank: Floats, enough: Callable[[Indices], Any]) -> Indices:
    """The first positions of a row in descending order of `rank`.

    Ties stay in order of id, as in a stable sort of the whole row. Only the head is sorted: a full sort of 150,000
    logits takes 20 ms, a threshold 30 us.

    Args:
        rank: shape (n,), the largest about 0. Positions of -inf are never returned.
        enough: whether these positions, in no order, are as many as wanted.

    Returns:
        Positions for which `enough` holds, or all that are possible.
    """
    for depth in _DEPTHS:
        found = np.flatnonzero(rank > -depth)
        if enough(found):
            break
    return found[np.argsort(-rank[found], kind="stable")]
