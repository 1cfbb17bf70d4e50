"""Do promises hold? Calibration sets drawn again and again, with replacement, from a pool of recorded runs.

The pool's own rate is then the truth, exactly. Owns the draws, the count of violations and its bound; runs no model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from reasonctl.controller import ControllerError
from reasonctl.probes.risk import MODES, Grid, Mode, Table, choose_threshold, failures_at

Floats = npt.NDArray[np.float64]
Procedure = Callable[[Table], float]
"""From a calibration table to a threshold."""


@dataclass(frozen=True)
class Verdict:
    """How often a promise was broken over re-draws of its calibration set."""

    violations: float
    """With a confidence: share of draws whose true rate is above the risk. Marginal: the mean true rate."""
    nominal: float
    """What `violations` may be: 1 - confidence, or the risk."""
    bound: float
    """nominal + 3 standard errors: a true promise at its very limit is called broken with probability 0.0013."""
    draws: int
    """Number of re-draws."""

    @property
    def holds(self) -> bool:
        """Whether the promise stands."""
        return self.violations <= self.bound


@dataclass(frozen=True)
class ModeResult:
    """One mode in one form: our procedure, and LYNX's per-cue threshold on the same draws against the same promise."""

    mode: Mode
    """Which failure the risk bounds."""
    confidence: float | None
    """None: the marginal form."""
    verdict: Verdict
    """On our procedure; `event`: on its own promise, per cue."""
    lynx: Verdict
    """On LYNX's threshold; `event`: on what its runs suffer, P(exit wrong)."""
    exit_rate: float
    """Mean over draws of our share of pool runs that exit."""
    saved: float
    """Mean over draws of our share of tokens saved, net of trials."""
    never: float
    """Share of draws whose threshold is +inf."""


def redraw(pool: Table, runs: int, draws: int, seed: int) -> Iterator[Table]:
    """Calibration tables of so many runs each, without the pool's stopping design.

    Copies of a run are independent draws: each gets its own problem.
    """
    if pool.runs == 0 or runs < 1:
        raise ControllerError(f"can't draw {runs} runs from a pool of {pool.runs}; both must be at least 1")
    rng, pool = np.random.default_rng(seed), replace(pool, stopping=None)
    for _ in range(draws):
        yield replace(pool.select(rng.integers(pool.runs, size=runs)), problem=np.arange(runs))


def verdict_on(rates: npt.ArrayLike, risk: float, confidence: float | None) -> Verdict:
    """The verdict on a promise of `risk` whose true rates over the re-draws were these, shape (draws,)."""
    rates = np.asarray(rates, dtype=np.float64)
    draws = len(rates)
    if confidence is None:
        error = float(rates.std(ddof=1)) / math.sqrt(draws)
        return Verdict(float(rates.mean()), risk, risk + 3 * error, draws)
    nominal = 1 - confidence
    error = math.sqrt(nominal * confidence / draws)
    return Verdict(float(np.mean(rates > risk)), nominal, nominal + 3 * error, draws)


def true_rates(pool: Table, mode: Mode, thresholds: npt.ArrayLike) -> Floats:
    """Shape (m,): the pool's own risk at each threshold; `event`: the share of its wrong cues that score above."""
    thresholds = np.asarray(thresholds, dtype=np.float64)
    if mode == "event":
        wrong = np.sort(pool.scores[~pool.right])
        return np.asarray(1 - np.searchsorted(wrong, thresholds, side="right") / max(len(wrong), 1))
    failed, n = failures_at(pool, mode, thresholds)
    return np.asarray(failed / np.maximum(n, 1))


def check(
    pool: Table,
    procedure: Procedure,
    mode: Mode,
    risk: float,
    confidence: float | None,
    *,
    runs: int,
    draws: int = 500,
    seed: int = 0,
) -> Verdict:
    """The verdict on any procedure that promises `risk` in this mode.

    Args:
        pool: The runs to draw from.
        procedure: From a calibration set to a threshold.
        mode: Which failure the risk bounds.
        risk: What the procedure promises.
        confidence: With which confidence. None: on average.
        runs: Runs of a calibration set.
        draws: Number of sets.
        seed: Of the draws.
    """
    thresholds = [procedure(table) for table in redraw(pool, runs, draws, seed)]
    return verdict_on(true_rates(pool, mode, thresholds), risk, confidence)


def check_all(
    pool: Table,
    grid: Grid,
    risk: float,
    confidence: float,
    *,
    runs: int,
    draws: int = 500,
    seed: int = 0,
    plain: Table | None = None,
) -> list[ModeResult]:
    """Every mode in every form that exists, all on the same draws.

    Args:
        pool: The runs to draw from. They must have had no part in the grid.
        grid: The candidate thresholds.
        risk: Most failures, as a share.
        confidence: Of the forms that have one.
        runs: Runs of a calibration set.
        draws: Number of sets.
        seed: Of the draws.
        plain: The pool without the cost of its signal's trials; savings are shares of its tokens. None: the pool.
    """
    forms: list[tuple[Mode, float | None]] = [(mode, confidence) for mode in MODES if mode != "event"]
    forms += [(mode, None) for mode in MODES if mode != "selective"]
    chosen = np.array(
        [
            [choose_threshold(table, grid, mode, risk, form).value for mode, form in forms]
            for table in redraw(pool, runs, draws, seed)
        ]
    )
    lynx = chosen[:, forms.index(("event", None))]
    full = (plain or pool).full_tokens.sum()
    return [_mode_result(pool, full, mode, form, risk, chosen[:, i], lynx) for i, (mode, form) in enumerate(forms)]


def _mode_result(
    pool: Table, full: int, mode: Mode, confidence: float | None, risk: float, chosen: Floats, lynx: Floats
) -> ModeResult:
    per_run: Mode = "wrong" if mode == "event" else mode
    spared = pool.sum_at_exits(chosen, pool.full_tokens[pool.run_of] - pool.exit_tokens)
    # A rule that never exits tries nothing.
    spent = np.where(chosen < np.inf, pool.full_tokens.sum() - spared, full)
    exits = pool.sum_at_exits(chosen, np.ones(pool.cues, dtype=bool))
    return ModeResult(
        mode,
        confidence,
        verdict_on(true_rates(pool, mode, chosen), risk, confidence),
        verdict_on(true_rates(pool, per_run, lynx), risk, confidence),
        float(exits.mean()) / pool.runs,
        float(1 - spent.mean() / full),
        float(np.isposinf(chosen).mean()),
    )
