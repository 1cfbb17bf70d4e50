"""When collecting may stop, and how many failures are then few enough: group-sequential exact binomial tests.

**Design.** The runs are analysed at numbers of runs that are fixed before any of them is read. The level 1 - confidence
is spent over these analyses by a fixed function (Lan and DeMets 1983). At each analysis the boundary is the largest
number of failures for which the level spent so far isn't exceeded. It comes from the exact joint distribution of the
failures at all analyses, so no approximation is involved.

**Promise.** If a run fails with probability `risk`, some analysis accepts with probability 1 - confidence at most. A
larger probability only adds failures: let run i fail where a uniform U_i is below p; then every count rises with p, and
acceptances get fewer. So the bound holds for every p >= risk, and collecting may stop at any analysis, for any reason.

Knows no table and no mode. SciPy is imported where it is called, as in bounds.py.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from reasonctl.controller import ControllerError
from reasonctl.controller.core import Fields

Design = Literal["fixed", "sequential"]

MOST_ANALYSES = 128
"""Most analyses that a card may name; a sequential design of 2^31 runs has fewer than 100."""
_MOST_RUNS = (1 << 31) - 1
_FAR = 20_000
"""Runs up to which a sufficient number is searched for at least; a search far beyond would take minutes."""


@dataclass(frozen=True)
class Stopping:
    """The numbers of calibration runs at which a promise was, or could have been, read; () where none was reached.

    >>> stopping = Stopping("sequential", planned(first_analysis(0.1, 0.9), 100))
    >>> stopping.analyses, stopping.boundaries(0.1, 0.9)
    ((29, 37, 47, 59, 74, 93), (0, 0, 1, 1, 2, 3))
    """

    design: Design
    """`sequential`: the level is spent over the analyses. `fixed`: the first one spends all of it, so that later ones
    have what a test of whole failures couldn't use."""
    analyses: tuple[int, ...]
    """Runs at each analysis; they never fall. Runs after the last one don't count."""

    def __post_init__(self) -> None:
        if self.design not in get_args(Design):
            raise ControllerError(f"the stopping design is {self.design!r:.40}; it must be fixed or sequential")
        counts = (0, *self.analyses)
        if any(b < a for a, b in zip(counts, counts[1:], strict=False)):
            raise ControllerError(
                f"the stopping design's analyses are {self.analyses[:9]}; give numbers of runs that never fall"
            )

    @property
    def runs(self) -> int:
        """Runs at the last analysis."""
        return self.analyses[-1] if self.analyses else 0

    @property
    def first(self) -> int:
        """Runs at the first analysis: a sample whose size no outcome has chosen."""
        return self.analyses[0] if self.analyses else 0

    def boundaries(self, risk: float, confidence: float) -> tuple[int, ...]:
        """Most failures that each analysis accepts; -1: it accepts nothing."""
        spent = tuple(self._spent(k) for k in range(1, len(self.analyses) + 1))
        return _boundaries(self.analyses, spent, risk, 1 - confidence)

    def most_failures(self, risk: float, confidence: float) -> int:
        """Most failures that the last analysis accepts; -1: it accepts nothing."""
        return self.boundaries(risk, confidence)[-1] if self.analyses else -1

    def split(self, confidence: float) -> float:
        """The confidence of a test at the last analysis whose errors, added up over all analyses, keep `confidence`.

        For counts whose joint distribution isn't known, where only the union bound holds. After the first analysis of
        a fixed design it is 1: nothing may be accepted.
        """
        k = max(len(self.analyses), 1)
        return 1 - (1 - confidence) * (self._spent(k) - self._spent(k - 1))

    def fewest(self, risk: float, confidence: float) -> int:
        """Runs at the earliest analysis, reached or to come, that accepts a record without a failure."""
        if self.design == "fixed":
            return fewest(risk, confidence)
        # Before the first analysis that accepts anything nothing is used up, so that a clean record needs no more.
        k, n = 0, 0
        while k == 0 or not _clean(n, risk, (1 - confidence) * self._spent(k)):
            n = self.analyses[k] if k < len(self.analyses) else following(n)
            k += 1
        return n

    def enough(self, failed: int, n: int, risk: float, confidence: float) -> int | None:
        """Runs at a later analysis that accepts the rate of `failed` in `n`; None: no number within reach would do."""
        reached = len(self.analyses)
        far = min(1024 * n, max(4 * n, _FAR))
        if self.design == "sequential":
            later = self._until(far)
            limits = zip(later.analyses[reached:], later.boundaries(risk, confidence)[reached:], strict=True)
        else:
            counts = sorted({math.ceil(n * 1.05**i) for i in range(1, 143) if n * 1.05**i <= far})
            limits = zip(counts, (self._then(m).most_failures(risk, confidence) for m in counts), strict=True)
        return next((m for m, most in limits if math.ceil(failed * m / n) <= most), None)

    def among(self, runs: npt.ArrayLike) -> Stopping:
        """The design of a part of the runs: how many of them each analysis has.

        The part must be chosen by what the outcomes don't depend on, such as a domain. Given the part, its failures are
        independent still, and its boundaries follow from its own numbers of runs.

        Args:
            runs: Indices of the part's runs, strictly rising.

        Raises:
            ControllerError: They don't rise.
        """
        chosen = np.asarray(runs, dtype=np.int64)
        if (np.diff(chosen) <= 0).any():
            raise ControllerError("runs out of their order, or twice, have no stopping design; drop it first")
        return Stopping(self.design, tuple(np.searchsorted(chosen, self.analyses).tolist()))

    def to_json(self) -> dict[str, Any]:
        """As the card of a probe file holds it."""
        return {"design": self.design, "analyses": list(self.analyses)}

    @classmethod
    def from_json(cls, value: object) -> Stopping:
        """What `to_json` gave; raises ControllerError for anything else, whoever wrote it."""
        found = Fields.of(value, "the stopping design")
        found.only(("design", "analyses"))
        design, analyses = found.text("design", 40), found.items("analyses", MOST_ANALYSES)
        counts = [0, *analyses]
        rising = all(type(b) is int and a < b <= _MOST_RUNS for a, b in zip(counts, analyses, strict=False))
        if not rising:
            found.refuse("analyses", "a list of whole numbers that rise")
        return cls(design, tuple(analyses))  # type: ignore[arg-type]  # checked there

    def _spent(self, k: int) -> float:
        """Of the level, the share that the first k analyses may use."""
        return float(k > 0) if self.design == "fixed" else _share(k)

    def _then(self, runs: int) -> Stopping:
        """With one analysis more."""
        return Stopping(self.design, (*self.analyses, runs))

    def _until(self, most: int) -> Stopping:
        """With the analyses that are to come up to so many runs, by the rule of a sequential design."""
        if not self.analyses:
            return Stopping(self.design, planned(1, most))
        return Stopping(self.design, (*self.analyses[:-1], *planned(max(self.runs, 1), most)))


def fewest(risk: float, confidence: float) -> int:
    """Fewest runs without a failure that hold `risk` in a single test: ceil(ln(1 - confidence) / ln(1 - risk)).

    >>> fewest(0.05, 0.9)
    45
    """
    n = max(1, math.ceil(math.log(1 - confidence) / math.log1p(-risk)) - 1)
    while not _clean(n, risk, 1 - confidence):
        n += 1
    return n


def _clean(n: int, risk: float, level: float) -> bool:
    """Whether n runs without a failure hold `risk` in a test of this level."""
    return n * math.log1p(-risk) <= math.log(level)


def first_analysis(risk: float, confidence: float) -> int:
    """Runs at the first analysis of a sequential design: so many promise `risk` if none of them fails.

    >>> first_analysis(0.1, 0.9), first_analysis(0.05, 0.9)
    (29, 59)
    """
    return fewest(risk, 1 - (1 - confidence) * _share(1))


def _share(k: int) -> float:
    """Of the level, the share that the first k analyses of a sequential design may use."""
    return k / (k + 1)


def following(runs: int) -> int:
    """Runs at the analysis after the one at so many: a quarter more.

    The ratio, and the shares k / (k + 1) of the level, were chosen by the mean number of runs until a promise, computed
    exactly for failure rates from 0 to half of the risk.
    """
    return max((5 * runs + 3) // 4, 1)


def planned(first: int, most: int) -> tuple[int, ...]:
    """The analyses of a sequential design up to so many runs.

    >>> planned(29, 60)
    (29, 37, 47, 59)
    """
    found, runs = [], first
    while runs <= most:
        found.append(runs)
        runs = following(runs)
    return tuple(found)


@lru_cache(maxsize=4096)
def _boundaries(analyses: tuple[int, ...], spent: tuple[float, ...], risk: float, level: float) -> tuple[int, ...]:
    """Most failures that each analysis accepts, by the distribution of failures on the way.

    Args:
        analyses: Runs at each analysis.
        spent: Of the level, the largest share that is used up to each.
        risk: Probability that a run fails.
        level: Largest probability that some analysis accepts.
    """
    largest = _fixed_boundary(analyses[-1], risk, level) if analyses else -1
    if largest < 0:
        return (-1,) * len(analyses)
    going_on, runs, used, found = np.ones(1), 0, 0.0, []
    for n, share in zip(analyses, spent, strict=True):
        # going_on[f]: P(f failures so far and no acceptance); more failures than `largest` are never accepted.
        going_on = np.convolve(going_on, _probs(n - runs, risk, largest))[: largest + 1]
        below, runs = np.cumsum(going_on), n
        most = int(np.searchsorted(below, level * share - used, side="right")) - 1
        if most >= 0:
            used += float(below[most])
            going_on[: most + 1] = 0.0
        found.append(most)
    return tuple(found)


def _fixed_boundary(n: int, risk: float, level: float) -> int:
    """Most failures f with P(Binomial(n, risk) <= f) <= level: no design with that level accepts more at n runs."""
    from scipy.special import bdtr

    return bisect_right(range(n), level, key=lambda f: float(bdtr(f, n, risk))) - 1


def _probs(n: int, risk: float, most: int) -> npt.NDArray[np.float64]:
    """P(Binomial(n, risk) = f) for f = 0 ... min(n, most)."""
    from scipy.special import betaln

    f = np.arange(min(n, most) + 1)
    ways = -betaln(n - f + 1, f + 1) - math.log(n + 1)
    return np.asarray(np.exp(ways + f * math.log(risk) + (n - f) * math.log1p(-risk)))
