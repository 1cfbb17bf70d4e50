"""What a chain hands from stage to stage: the candidates of one row, their logits, and statistics counted once.

Owns the numerics of a law: centring, weights, entropy, and sorting no more of a row than is needed.
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
    """Candidates and their logits; a value, never changed in place.

    logits: shape (n,). ids: token ids in ascending order, shape (n,); None = all tokens, -inf where impossible.
    `shifted` has its maximum at 0; `weights` = exp(shifted), `mass` their sum.

    >>> scores = Candidates(np.array([0.0, 1.0, -np.inf]))
    >>> scores.weights.round(4).tolist(), scores.keep(np.array([1])).token(0)
    ([0.3679, 1.0, 0.0], 1)
    """

    __slots__ = ("_entropy", "_mass", "_shifted", "_weights", "_whole", "ids", "logits")

    def __init__(
        self, logits: Floats, ids: Indices | None = None, *, centred: bool = False, whole: Candidates | None = None
    ) -> None:
        self.logits, self.ids, self._whole = logits, ids, whole
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
        """Logits relative to the largest one. Raises ControllerError for NaN, +inf, or no candidate at all."""
        if self._shifted is None:
            short = self.ids is None and len(self.logits) < _SHORT
            logits = self.logits.astype(np.float64) if short else self.logits
            top = logits.max()
            check_largest(top)
            self._shifted = logits - top
        return self._shifted

    @property
    def weights(self) -> Floats:
        """Shape (n,): probabilities up to a factor."""
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
        """In nats; candidates of probability 0 count as absent."""
        if self._entropy is None:
            self._entropy = entropy_of(self.shifted, self.weights, self.mass)
        return self._entropy

    @property
    def candidates(self) -> Indices:
        """Positions of the tokens that are possible."""
        return np.flatnonzero(self.shifted > -np.inf)

    def surprise(self) -> Floats:
        """Shape (n,): -ln p, in nats."""
        surprise: Floats = np.log(self.mass) - self.shifted
        return surprise

    def keep(self, positions: Indices) -> Candidates:
        """Only these positions (ascending)."""
        ids = positions if self.ids is None else self.ids[positions]
        return Candidates(self.shifted[positions], ids, whole=self.whole)

    def keep_top(self) -> Candidates:
        """Only the most probable candidate; the lowest id wins ties."""
        return self.keep(np.array([int(self.shifted.argmax())]))

    def tempered(self, temperature: float) -> Candidates:
        """All logits divided by a temperature; at COLDEST and below only the most probable candidate."""
        if temperature == 1.0:
            return self
        if temperature <= COLDEST:
            return self.keep_top()
        return Candidates(self.shifted / temperature, self.ids, centred=True, whole=self.whole)

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
        """Where a candidate stands."""
        return token if self.ids is None else int(np.searchsorted(self.ids, token))


def check_largest(logit: float) -> None:
    """Raises ControllerError if the largest logit of a row says that nothing can be drawn from it."""
    if logit == -np.inf:
        raise ControllerError("no token is allowed here: the constraints of this call have removed all of them")
    if not logit < np.inf:
        raise ControllerError(f"the sampling distribution is broken: its largest logit is {logit} (bad processor?)")


def head(rank: Floats, enough: Callable[[Indices], Any]) -> Indices:
    """The first positions in descending order of `rank` (largest about 0), at least as many as `enough` asks for.

    Ties stay in order of id, as in a stable sort of the whole row; -inf is never among them. Only the head is sorted: a
    full sort of 150,000 logits takes 20 ms, a threshold 30 us.
    """
    for depth in _DEPTHS:
        found = np.flatnonzero(rank > -depth)
        if enough(found):
            break
    return found[np.argsort(-rank[found], kind="stable")]
