"""A drift test that may be read after every run: are runs in use still like the calibration runs?

**Statistic.** The score at a run's first cue; a run without a cue ranks below all others. It is the one score that
every run shows, whatever rule is in use: an exit hides the later ones. The highest score so far would not do either.
The threshold was chosen on the calibration runs, so that score isn't exchangeable between them and runs in use.

**Test.** Every run is ranked among the calibration runs *and all runs met before it*. If all of them are exchangeable,
these smoothed conformal p-values are independent and uniform, for any number of calibration runs (Vovk, Gammerman,
Shafer 2005). The product of bets on them is a test martingale. By Ville's inequality it ever reaches 1 / level with
probability `level` at most. All of that is exact.

**Limits.** Several samples of one prompt in one call depend on each other, so only the first counts. A drift that lasts
becomes the new normal, so an alarm stays once it is raised. Ranks among a *fixed* reference would avoid that, but they
share its sampling error, and a bettor learns the error.

**Bets.** The bettor follows the best of nine Beta densities (the switching of the Simple Jumper). The linear bets of
MAPIE's `OnlineMartingaleTest` miss a change of spread, and its state can't be stored. tests/probes/test_drift.py counts
the runs until the alarm.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from reasonctl.controller import ControllerError, Keys

from .table import Table

BETS = ((1.0, 1.0), (1.0, 1.5), (1.5, 1.0), (1.0, 2.0), (2.0, 1.0), (1.0, 4.0), (4.0, 1.0), (0.7, 0.7), (2.0, 2.0))
"""Parameters (a, b) of the densities: no drift, ranks that move either way, and spread that grows or shrinks."""

SWITCH = 0.01
"""Share of the wealth that is spread evenly over the bets before each run."""

_PURPOSE = 64
"""Purpose of the keyed uniforms; the decoding loop uses small numbers."""
_EDGE = 1e-12
_LARGEST = 700.0
_NORM = tuple(math.gamma(a + b) / (math.gamma(a) * math.gamma(b)) for a, b in BETS)


class DriftMonitor:
    """An e-process for "runs in use and calibration runs are exchangeable"; false alarms, ever: at most `level`.

    >>> monitor = DriftMonitor([i / 100 for i in range(100)], level=0.01)
    >>> for score in [0.95, 0.99, 0.97, 0.9, 0.98] * 4:
    ...     evidence = monitor.update([score, 0.5])
    >>> monitor.alarm, monitor.runs
    (True, 20)
    """

    def __init__(self, reference: Sequence[float], *, level: float = 0.01, seed: int = 0) -> None:
        """Start with no run met.

        Args:
            reference: The calibration runs' scores at their first cue; -inf for a run without one.
            level: Largest probability of a false alarm, ever; in (0, 1).
            seed: Seed of the uniforms that break ties.

        Raises:
            ControllerError: There is no score, a score is NaN, or the level is out of range.
        """
        if not 0.0 < level < 1.0:
            raise ControllerError(f"the drift monitor's level is {level}; it must be above 0 and below 1, say 0.01")
        if not reference or any(math.isnan(score) for score in reference):
            raise ControllerError(f"the drift monitor needs calibration scores that are numbers, got {len(reference)}")
        self.level = level
        self.seed = seed
        self.reference = tuple(float(score) for score in reference)
        self._ranked = sorted(self.reference)
        self._met: list[float] = []
        self._weights = [1 / len(BETS)] * len(BETS)
        self._log_evidence = 0.0
        self._log_highest = 0.0
        self._keys = Keys(seed=seed)

    @classmethod
    def of(cls, table: Table, *, level: float = 0.01, seed: int = 0) -> DriftMonitor:
        """A monitor whose reference is the table's runs: of a stopping design, those of its first analysis.

        The number of further runs depends on what the runs were, so they are no sample that later runs can be like.
        """
        if table.stopping is not None:
            table = table.select(np.arange(table.stopping.first))
        first = [
            table.scores[a] if a < b else -math.inf for a, b in zip(table.offsets, table.offsets[1:], strict=False)
        ]
        return cls([float(score) for score in first], level=level, seed=seed)

    @property
    def runs(self) -> int:
        """Runs met in use."""
        return len(self._met)

    @property
    def evidence(self) -> float:
        """The e-value now: about 1 without drift, large with it."""
        return math.exp(min(self._log_evidence, _LARGEST))

    @property
    def alarm(self) -> bool:
        """Whether the e-value has ever reached 1 / level."""
        return self._log_highest >= -math.log(self.level)

    @property
    def why(self) -> str:
        """One line for people."""
        highest = math.exp(min(self._log_highest, _LARGEST))
        said = "drift: scores in use differ from the calibration's" if self.alarm else "no drift seen"
        return f"{said} ({self.runs} runs, highest e-value {highest:.3g}, alarm at {1 / self.level:g})"

    def update(self, scores: Sequence[float]) -> float:
        """Take in a finished run.

        Args:
            scores: The run's scores, in the order of its cues.

        Returns:
            The e-value after it.

        Raises:
            ControllerError: The first score is not a number.
        """
        score = float(scores[0]) if len(scores) else -math.inf
        if math.isnan(score):
            raise ControllerError("the drift monitor got a score that is not a number")
        p = self._p_value(score)
        densities = [norm * p ** (a - 1) * (1 - p) ** (b - 1) for norm, (a, b) in zip(_NORM, BETS, strict=True)]
        self._weights, growth = bet(self._weights, densities)
        self._log_evidence += math.log(growth)
        self._log_highest = max(self._log_highest, self._log_evidence)
        return self.evidence

    def _p_value(self, score: float) -> float:
        """Uniform in (0, 1) if this run is exchangeable with all before it; ties are broken by a keyed uniform."""
        low, high = bisect_left(self._ranked, score), bisect_right(self._ranked, score)
        u, n = self._keys.uniform(self.runs, _PURPOSE), len(self._ranked)
        self._ranked.insert(low, score)
        self._met.append(score)
        return min(max((n - high + u * (high - low + 1)) / (n + 1), _EDGE), 1 - _EDGE)

    def to_dict(self) -> dict[str, Any]:
        """All of the state, as plain values that JSON can hold."""
        return {
            "level": self.level,
            "seed": self.seed,
            "reference": [_plain(score) for score in self.reference],
            "met": [_plain(score) for score in self._met],
            "weights": list(self._weights),
            "log_evidence": self._log_evidence,
            "log_highest": self._log_highest,
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> DriftMonitor:
        """The monitor that `to_dict` described, going on where it was; ControllerError if the state is broken."""
        try:
            reference, met = ([_score(value) for value in state[name]] for name in ("reference", "met"))
            monitor = cls(reference, level=float(state["level"]), seed=int(state["seed"]))
            monitor._met = met
            monitor._ranked = sorted([*reference, *met])
            monitor._weights = [float(weight) for weight in state["weights"]]
            monitor._log_evidence = float(state["log_evidence"])
            monitor._log_highest = float(state["log_highest"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ControllerError(f"the drift monitor's state is broken ({error!r}); start a new one") from None
        numbers = [*monitor._weights, monitor._log_evidence, monitor._log_highest]
        if len(monitor._weights) != len(BETS) or not all(math.isfinite(number) for number in numbers):
            raise ControllerError("the drift monitor's state is broken (weights or evidence); start a new one")
        return monitor


def bet(weights: Sequence[float], densities: Sequence[float]) -> tuple[list[float], float]:
    """One round of the bettor.

    Args:
        weights: The share of the wealth on each bet; they sum to 1.
        densities: Each bet's density at the p-value.

    Returns:
        The new weights, and the growth of the wealth. The growth has mean 1 if the p-value is uniform, whatever the
        weights.
    """
    spread = SWITCH / len(weights)
    stakes = [((1 - SWITCH) * weight + spread) * density for weight, density in zip(weights, densities, strict=True)]
    growth = sum(stakes)
    return [stake / growth for stake in stakes], growth


def _plain(score: float) -> float | None:
    return None if score == -math.inf else score


def _score(value: Any) -> float:
    return -math.inf if value is None else float(value)
