"""Temperatures: one number per row that divides the logits, from the model's own confidence or from the position."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass

from ..candidates import Candidates
from ..draw import Row
from ..stage import Pure, require


class Tempering(Pure):
    """Divides the logits by `temperature(candidates, row)`."""

    kind = "temperature"

    @abstractmethod
    def temperature(self, candidates: Candidates, row: Row) -> float:
        """The temperature of this row."""

    def divisor(self, candidates: Candidates, row: Row) -> float:
        return self.temperature(candidates, row)

    def apply(self, candidates: Candidates, row: Row) -> Candidates:
        return candidates.tempered(self.temperature(candidates, row))


def _positive(name: str, value: float) -> None:
    require(0.0 < value < math.inf, name, value, "above 0 (for 0 use greedy)")


@dataclass(frozen=True)
class Temperature(Tempering):
    """The same temperature everywhere."""

    name = "temperature"
    t: float
    """Above 0; 1 leaves the row as it is."""

    def __post_init__(self) -> None:
        _positive("temperature", self.t)

    @property
    def neutral(self) -> bool:
        return self.t == 1.0

    def temperature(self, candidates: Candidates, row: Row) -> float:
        return self.t


@dataclass(frozen=True)
class EDT(Tempering):
    """Entropy-based: T = t0 * 0.8^(theta / H), H the entropy in nats of the row before truncation and temperature.

    Rows of low entropy become greedy, those of high entropy approach t0. We know the equation at second hand only, and
    its natural logarithm too.
    """

    name = "edt"
    t0: float = 1.0
    """The temperature that rows of high entropy approach."""
    theta: float = 0.1
    """How fast the temperature falls with the entropy, in nats; 0 is t0 everywhere."""

    def __post_init__(self) -> None:
        _positive("edt's t0", self.t0)
        require(0.0 <= self.theta < math.inf, "edt's theta", self.theta, "0 (off) or more")

    def temperature(self, candidates: Candidates, row: Row) -> float:
        entropy = candidates.whole.entropy
        if self.theta == 0.0:
            return self.t0
        return self.t0 * math.pow(0.8, self.theta / entropy) if entropy > 0.0 else 0.0


@dataclass(frozen=True)
class Dynatemp(Tempering):
    """llama.cpp's dynamic temperature: t +- range, by the normalised entropy of the candidates to the power `exponent`.

    The number of candidates that earlier stages left normalises the entropy. llama.cpp also counts tokens that its
    top-n-sigma has masked.
    """

    name = "dynatemp"
    t: float = 0.8
    """The middle of the range."""
    range: float = 0.0
    """Most that the temperature differs from t; 0 is off."""
    exponent: float = 1.0
    """Of the normalised entropy, which is in [0, 1]."""

    def __post_init__(self) -> None:
        _positive("dynatemp's t", self.t)
        require(0.0 <= self.range < math.inf, "dynatemp's range", self.range, "0 (off) or more")
        require(0.0 <= self.exponent < math.inf, "dynatemp's exponent", self.exponent, "0 or more")

    def temperature(self, candidates: Candidates, row: Row) -> float:
        if self.range == 0.0:
            return self.t
        n = len(candidates.possible)
        if n < 2:
            return 1.0
        low, high = max(0.0, self.t - self.range), self.t + self.range
        return low + (high - low) * math.pow(min(candidates.entropy / math.log(n), 1.0), self.exponent)


@dataclass(frozen=True)
class EAD(Tempering):
    """Exploratory annealed decoding: 1 for the first tokens, then max(1 + t_max - e^(i/d), t_min), i tokens generated.

    Give either d or the median length of an answer. The method's authors warn that a d made for long answers never
    anneals short ones.
    """

    name = "ead"
    d: float = 0.0
    """Scale of the decay, in tokens; 0 where `median` is given."""
    median: float = 0.0
    """Median length of an answer, in tokens: t_min is reached at half of it (the half is our own choice)."""
    t_max: float = 1.2
    """The temperature at which the decay begins."""
    t_min: float = 0.1
    """Lowest temperature."""
    warmup: int = 10
    """First tokens, which are sampled at temperature 1."""

    def __post_init__(self) -> None:
        _positive("ead's t_min", self.t_min)
        require(self.t_min <= self.t_max < math.inf, "ead's t_max", self.t_max, f"at least t_min, {self.t_min}")
        require(self.warmup >= 0, "ead's warmup", self.warmup, "0 or more")
        for name, value in (("d", self.d), ("median", self.median)):
            require(0.0 <= value < math.inf, f"ead's {name}", value, "above 0 tokens")
        require((self.d > 0) != (self.median > 0), "ead's scale", f"d={self.d}, median={self.median}", "one of the two")

    def temperature(self, candidates: Candidates, row: Row) -> float:
        return self.at(len(row.tokens) - row.context.start)

    def at(self, position: int) -> float:
        """Temperature of the token after `position` generated ones.

        >>> [round(EAD(d=500).at(i), 4) for i in (9, 10, 100, 370, 100_000)]
        [1.0, 1.1798, 0.9786, 0.1041, 0.1]
        """
        if position < self.warmup:
            return 1.0
        if position >= self.floor_at:
            return self.t_min
        drop = math.log(1 + self.t_max - self.t_min)
        return max(1 + self.t_max - math.exp(position * drop / self.floor_at), self.t_min)

    @property
    def floor_at(self) -> float:
        """Generated tokens at which t_min is reached: d ln(1 + t_max - t_min), or half the median."""
        drop = math.log(1 + self.t_max - self.t_min)
        return self.d * drop if self.d or not drop else self.median / 2

    @classmethod
    def from_repo(cls, decay_freq: float, *, step: int = 0, **others: float) -> EAD:
        """The schedule of the authors' released roll-out code: d = 20 min(decay_freq + 5 step, 40000).

        >>> str(EAD.from_repo(25)), EAD.from_repo(25, step=10).d
        ('ead(500)', 1500.0)
        """
        require(step >= 0, "ead's step", step, "0 or more")
        return cls(d=20.0 * min(decay_freq + 5 * step, 40_000), **others)  # type: ignore[arg-type]
