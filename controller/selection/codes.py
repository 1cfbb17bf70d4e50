"""Arithmetic sampling: samples of one prompt share one random shift instead of being independent.

A text owns an interval of [0, 1) whose width is its probability: each token divides the interval of the text before it.
A sample is the text whose interval holds the sample's *code* (Vilnis et al. 2023, "Arithmetic Sampling", section 3).
Codes that are spread evenly over the circle give samples that are spread over the model's distribution, and each
sample alone is drawn from it exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias, get_args

from ..core.decode import Floats
from ..core.errors import ControllerError
from ..core.randomness import Keys
from ..sampling.candidates import Candidates
from ..sampling.draw import Row, cumulative
from ..sampling.policy import Policy, StatefulWrapper, WrapperState

Codes: TypeAlias = Literal["independent", "arithmetic"]
"""How the samples of a prompt depend on each other: not at all, or by evenly spread codes."""

_GRID = 2.0**-53
"""Distance of neighbouring codes: a code has 53 bits, as every keyed uniform."""

_NARROWEST = 2.0**-40
"""A token of less probability uses up the code's bits, and a new code is drawn."""


def arithmetic_codes(n: int, keys: Keys) -> list[float]:
    """The codes of n samples of one prompt: even steps of 1/n from one shift, round the circle.

    Each code alone is uniform on [0, 1). Intervals narrower than 1/n hold at most one of them, so a text of
    probability below 1/n is drawn at most once.

    Neighbours on the circle are far apart in the order of the samples (bits reversed, as van der Corput's sequence):
    a vote that stops early has samples from the whole circle. Of n = 2^b samples each block of 2^a is an even set.

    Args:
        n: number of samples; at least 1.
        keys: the first sample's. The shift is their uniform at position 0, where no token is drawn.

    Returns:
        The codes, each in [0, 1), in the order of the samples.

    Raises:
        ControllerError: n is below 1.

    >>> codes = arithmetic_codes(4, Keys(seed=1))
    >>> [round((code - codes[0]) % 1, 6) for code in codes]
    [0.0, 0.5, 0.25, 0.75]
    """
    if n < 1:
        raise ControllerError(f"n is {n}; give at least 1 sample")
    shift, bits = keys.uniform(0), n.bit_length()
    order = sorted(range(n), key=lambda place: f"{place:0{bits}b}"[::-1])
    return [(shift + place / n) % 1.0 for place in order]


def check_codes(codes: object) -> None:
    """Raise ControllerError unless samples can depend on each other in this way."""
    if codes not in get_args(Codes):
        raise ControllerError(f"codes is {codes!r}; give one of {', '.join(get_args(Codes))}")


def policies_of(codes: Codes, policy: Policy, keys: Sequence[Keys]) -> list[Policy]:
    """The policy of each sample.

    Args:
        codes: how the samples depend on each other.
        policy: the policy that all of them are drawn from.
        keys: the samples', in their order.
    """
    if codes == "arithmetic":
        return [ArithmeticCode(policy, code) for code in arithmetic_codes(len(keys), keys[0])]
    return [policy] * len(keys)


class Narrowed(NamedTuple):
    """A draw by a code."""

    drawn: int
    """The index that was drawn."""
    code: float
    """Where the code stands in the interval of what was drawn, in [0, 1)."""


def narrow(weights: Floats, code: float, fresh: float) -> Narrowed:
    """Draw an index whose interval holds the code, and rescale the code to that interval.

    A code is known to 53 bits. Rescaling it brings in as many new low bits as the draw has used up: `fresh` gives
    them, so that the rescaled code is again uniform and independent of what was drawn.

    Args:
        weights: shape (candidates,), not negative, of any positive sum.
        code: in [0, 1).
        fresh: a uniform number in [0, 1) that nothing else uses.

    Raises:
        ControllerError: the weights have no finite positive sum.
    """
    mass = cumulative(weights)
    total = float(mass[-1])
    # side="right" passes over every index of zero weight, also at a code of exactly 0.
    index = min(int(mass.searchsorted(code * total, side="right")), int(mass.searchsorted(total)))
    low, high = (float(mass[index - 1]) if index else 0.0) / total, float(mass[index]) / total
    if high - low < _NARROWEST:
        return Narrowed(index, fresh)
    inside = (code + fresh * _GRID - low) / (high - low)
    return Narrowed(index, min(max(inside, 0.0), 1.0 - _GRID))


class ArithmeticCode(StatefulWrapper):
    """A policy whose draws are made by one sample's code; each token has the policy's own distribution.

    Drafted tokens that a draft model drew are verified by comparing them with the code's token: the distribution stays
    exact and fewer of them are accepted. A policy that takes the largest leaves the code as it is.
    """

    def __init__(self, inner: Policy, code: float) -> None:
        """Wrap a policy.

        Args:
            inner: the policy; any that draws with `Row.draw`.
            code: the sample's, see `arithmetic_codes`.

        Raises:
            ControllerError: the code is outside [0, 1).
        """
        super().__init__(inner)
        if not 0.0 <= code < 1.0:
            raise ControllerError(f"code is {code}; it must be at least 0 and below 1")
        self.code = code

    def begin(self) -> float:
        return self.code

    def step(self, state: WrapperState, row: Row) -> tuple[WrapperState, int]:
        place = _Place(state.own)
        inner, token = self.inner.step(state.inner, _CodedRow.of(row, place))
        return WrapperState(inner, place.code), token


@dataclass(slots=True)
class _Place:
    """Where a code stands; a draw moves it."""

    code: float
    """In [0, 1)."""


class _CodedRow(Row):
    """A row whose draw is made by a code."""

    __slots__ = ("place",)

    place: _Place
    """Where the code stands."""

    @classmethod
    def of(cls, row: Row, place: _Place) -> _CodedRow:
        """The same row under a code. How a draft's tokens were drawn is nothing to it."""
        made = cls(row._step, row._node, row.tokens, row.phase, row.keys, row.context, row.score)
        made.place = place
        return made

    def draw(self, candidates: Candidates) -> int:
        # The keyed uniform of the draw itself is free: the code takes its part.
        narrowed = narrow(candidates.weights, self.place.code, self.uniform())
        self.place.code = narrowed.code
        return candidates.token(narrowed.drawn)

    def replaced(self, logits: Floats) -> Row:
        return _CodedRow.of(super().replaced(logits), self.place)
