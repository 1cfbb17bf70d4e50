"""The lower exit: giving up on runs whose score is too low for their length. Off by default.

A run gives up where its score is under a curve that rises with its length (Conformal Thinking, arXiv 2602.03814).

**Promise.** P(the full run is right and this rule alone would have given up at some cue) <= risk.

**Together with the upper threshold.** The loss above doesn't depend on the upper threshold, so the same calibration
runs serve for both. Every exit of the pair is either an exit of the upper rule alone or a give-up. So P(harm) of the
pair is at most the sum of both risks. With confidences, both promises hold at once with probability at least
2 * confidence - 1. Mode `selective` has no such promise: give-ups take runs out of those that exit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from reasonctl.controller import ControllerError

from .bounds import accepted, conformal_quantile, shortfall
from .table import Bools, Floats64, Table
from .threshold import CalibrationResult, check_evidence, check_request, check_stopping, runs_needed, worthwhile

_MEANS = "P(full run right and given up)"
_STEEPNESS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""Slopes that are tried, in logits per median length of a run."""
_FAR = 1e300


@dataclass(frozen=True)
class LowerCurve:
    """Give up at a cue whose score is below sigma(c (t - t0)), where t is the number of tokens before the cue.

    >>> curve = LowerCurve(c=0.01, t0=500.0)
    >>> curve.below(0.4, 500), curve.below(0.4, 450), curve.below(0.9, 750)
    (True, False, True)
    """

    c: float
    """Slope, in logits per token."""
    t0: float
    """Where the curve passes 0.5, in tokens; +inf: never give up."""

    def __post_init__(self) -> None:
        if not 0.0 < self.c < math.inf or math.isnan(self.t0):
            raise ControllerError(f"the curve's slope is {self.c} and its start {self.t0}; the slope must be above 0")

    def below(self, score: float, position: int) -> bool:
        """Whether a run gives up at a cue.

        Args:
            score: The score at the cue, in 0..1.
            position: Tokens generated before the cue.

        Raises:
            ControllerError: The score isn't in 0..1.
        """
        return bool(_crossings(self.c, score, position) > self.t0)

    def cues(self, table: Table) -> Bools:
        """Shape (cues,): `below` at every cue of recorded runs."""
        return np.asarray(_crossings(self.c, table.scores, table.positions) > self.t0)


@dataclass(frozen=True, eq=False)
class LowerGrid:
    """Candidate curves of one slope, fixed by the fitting split."""

    c: float
    """Their slope, in logits per token."""
    starts: Floats64
    """Shape (size,), in tokens, strictly falling: the latest start, which is the strictest, first."""

    def __post_init__(self) -> None:
        starts = self.starts
        if not 0.0 < self.c < math.inf or starts.ndim != 1 or len(starts) == 0:
            raise ControllerError(f"a lower grid needs a slope above 0 and starts, got {self.c} and {starts.shape}")
        if not np.isfinite(starts).all() or (np.diff(starts) >= 0).any():
            raise ControllerError("a lower grid's starts must be finite and strictly fall")

    @classmethod
    def of(cls, fitting: Table, size: int = 200, risk: float = 0.05) -> LowerGrid:
        """The slope that saves most on the fitting runs, and its starts.

        Args:
            fitting: The fitting runs, under scores from held-out folds.
            size: Most starts.
            risk: Slopes are compared where this share of the runs is right and given up. Any other risk may be asked
                for later.

        Raises:
            ControllerError: There is no cue, or `size` is below 2.
        """
        if size < 2 or fitting.cues == 0:
            raise ControllerError(f"a lower grid needs at least 2 starts of 1 cue, got {size} of {fitting.cues}")
        length = max(float(np.median(fitting.full_tokens)), 1.0)
        slopes = [steepness / length for steepness in _STEEPNESS]
        c = max(slopes, key=lambda slope: _savings(_late(fitting, slope), risk))
        latest = _late(fitting, c).highest(np.ones(fitting.cues, dtype=bool))
        levels = np.linspace(0.0, 1.0, size)
        starts = np.unique(np.quantile(latest[np.isfinite(latest)], levels, method="inverted_cdf"))
        return cls(c, starts[::-1].copy())


@dataclass(frozen=True, kw_only=True)
class GiveUp(CalibrationResult):
    """The lower exit in use, and what it promises. A failure is a run that is right and given up."""

    curve: LowerCurve
    """Where the rule gives up."""


def choose_lower(table: Table, grid: LowerGrid, risk: float, confidence: float | None) -> GiveUp:
    """The curve that gives up nearly as early as the calibration runs allow; never where they can promise nothing.

    Args:
        table: The calibration runs, one per problem, under scores in 0..1.
        grid: Candidate curves.
        risk: Largest P(the full run is right and given up).
        confidence: Probability that the risk holds, by Learn-then-Test from the latest start to the earliest. None: on
            average, by split conformal on each run's latest crossing.

    Raises:
        ControllerError: The request is impossible, the runs aren't graded, one problem has several, or the scores
            aren't probabilities.
    """
    _check(table, risk, confidence)
    late = _late(table.analysed(), grid.c)
    if confidence is None:
        return _conformal(late, grid.c, risk)
    return _learn_then_test(late, grid, risk, confidence)


def _conformal(late: Table, c: float, risk: float) -> GiveUp:
    """Split conformal on each right run's latest crossing; `late` holds crossings for scores."""
    highest, n, more = late.highest(late.full_right[late.run_of]), late.runs, 0
    t0, promise = conformal_quantile(highest, risk), f"{_MEANS} <= {risk} on average over calibrations"
    failed = int((highest > t0).sum())
    why = _why(t0, failed, n, promise)
    if t0 == math.inf:
        more = runs_needed("harm", risk, None) - n
        why = f"never give up: {n} calibration runs can't promise {promise}: {more} more runs are needed"
    return GiveUp(curve=LowerCurve(c, t0), risk=risk, confidence=None, runs=n, failures=failed, more_runs=more, why=why)


def _learn_then_test(late: Table, grid: LowerGrid, risk: float, confidence: float) -> GiveUp:
    """Learn-then-Test, from the latest start to the earliest; `late` holds crossings for scores."""
    counts, n = late.sum_at_exits(grid.starts, late.full_right[late.run_of]), late.runs
    held = accepted(counts, np.full(len(counts), n), risk, confidence, late.stopping)
    promise = f"{_MEANS} <= {risk} with confidence {confidence}"
    at = worthwhile(late, grid.starts[:held]) if held else 0
    failed = int(counts[at])
    more: int | None = 0
    if held == 0:
        t0 = math.inf
        more, missing = shortfall(failed, n, risk, confidence, late.stopping, what="runs", promise=promise)
        why = f"never give up: {missing}"
    else:
        t0 = float(grid.starts[at])
        why = _why(t0, failed, n, promise)
    return GiveUp(
        curve=LowerCurve(grid.c, t0),
        risk=risk,
        confidence=confidence,
        runs=n,
        failures=failed,
        more_runs=more,
        why=why,
    )


def _why(t0: float, failed: int, n: int, promise: str) -> str:
    """One line about a curve that is in use."""
    return f"give up below a curve that starts at {t0:.0f} tokens: {failed} failures in {n} calibration runs; {promise}"


def _check(table: Table, risk: float, confidence: float | None) -> None:
    """Raise ControllerError for a request that can't be met, or runs that are no evidence."""
    check_request("harm", risk, confidence)
    if not table.graded:
        raise ControllerError("giving up needs gold answers and these runs have none; leave it off")
    check_evidence(table)
    check_stopping(table, "harm", confidence)


def _crossings(c: float, scores: npt.ArrayLike, positions: npt.ArrayLike) -> Floats64:
    """The start of the curve that passes through each cue: t - logit(score) / c.

    A rule gives up at the cue if its own curve starts earlier.
    """
    scores = np.asarray(scores, dtype=np.float64)
    if not ((scores >= 0.0) & (scores <= 1.0)).all():
        raise ControllerError("giving up needs scores between 0 and 1; use a signal that gives a probability")
    with np.errstate(divide="ignore"):
        logits = np.log(scores) - np.log1p(-scores)
    return np.asarray(np.clip(np.asarray(positions) - logits / c, -_FAR, _FAR))


def _late(table: Table, c: float) -> Table:
    """The table with crossings for scores: giving up is its first exit above t0."""
    table.need_all_labels("giving up")
    return table.with_scores(_crossings(c, table.scores, table.positions))


def _savings(late: Table, risk: float) -> float:
    """Tokens saved on these runs where at most this share of them is right and given up."""
    highest = np.sort(late.highest(late.full_right[late.run_of]))[::-1]
    t0 = highest[min(math.floor(risk * late.runs), late.runs - 1)]
    return float(late.sum_at_exits([t0], late.full_tokens[late.run_of] - late.exit_tokens)[0])
