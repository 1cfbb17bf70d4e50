"""Computes a promise: the threshold that a calibration table allows for a risk, by exact procedures.

The procedures are split conformal prediction, Learn-then-Test, and LYNX's own. The unit is one run of one problem,
except in mode `event`, where it is a cue.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from numbers import Real
from typing import Literal, get_args

import numpy as np

from reasonctl.controller import ControllerError

from .bounds import accepted, conformal_quantile, shortfall
from .stopping import fewest
from .table import Bools, Floats64, Ints, Outcomes, Table

Mode = Literal["harm", "wrong", "selective", "disagree", "event"]
MODES: tuple[Mode, ...] = get_args(Mode)

NEARLY = 0.97
"""Share of the largest certified savings that a threshold must reach; the strictest such one is used."""

MEANS = {
    "harm": "P(exit wrong and full run right)",
    "wrong": "P(exit wrong)",
    "selective": "P(wrong | exited)",
    "disagree": "P(exit's answer differs from the full run's)",
    "event": "per cue, not per run: P(exit allowed | wrong cue)",
}


@dataclass(frozen=True, eq=False)
class Grid:
    """Candidate thresholds, fixed by the fitting split before any calibration run is read."""

    thresholds: Floats64
    """Shape (size,), strictly falling: the strictest first."""
    exits: Floats64
    """Shape (size,): the share of fitting runs that exit at each."""
    floored: bool = False
    """The last candidate is a floor: calibration runs know nothing of looser thresholds."""

    def __post_init__(self) -> None:
        values, exits = self.thresholds, self.exits
        if values.ndim != 1 or values.shape != exits.shape or len(values) == 0:
            raise ControllerError(f"a grid needs one exit share per threshold: shapes {values.shape} and {exits.shape}")
        if not np.isfinite(values).all() or (np.diff(values) >= 0).any() or not ((exits >= 0) & (exits <= 1)).all():
            raise ControllerError("a grid's thresholds must be finite and strictly fall, its exit shares lie in 0..1")

    @classmethod
    def of(cls, fitting: Table, size: int = 400) -> Grid:
        """At most `size` quantiles of the fitting split's scores.

        Args:
            fitting: The fitting runs, under scores from held-out folds.
            size: Most candidates.

        Raises:
            ControllerError: There is no cue, or `size` is below 2.
        """
        if size < 2 or fitting.cues == 0:
            raise ControllerError(f"a grid needs at least 2 quantiles of 1 cue, got {size} of {fitting.cues}")
        levels = np.linspace(0.0, 1.0, size)
        values = np.unique(np.quantile(fitting.scores, levels, method="inverted_cdf"))[::-1].copy()
        exits = np.array([np.mean(fitting.first_exit(float(v)) >= 0) for v in values])
        return cls(values, exits)

    @property
    def loosest(self) -> float:
        """The last candidate."""
        return float(self.thresholds[-1])

    def down_to(self, floor: float) -> Grid:
        """The candidates from the strictest down to a floor, at least one."""
        kept = max(int((self.thresholds >= floor).sum()), 1)
        return Grid(self.thresholds[:kept], self.exits[:kept], floored=True)


@dataclass(frozen=True, kw_only=True)
class CalibrationResult:
    """What calibration runs promise for a risk, and how many more of them a promise needs."""

    risk: float
    """The risk that was asked for."""
    confidence: float | None
    """Probability, over calibrations, that the risk holds. None: it holds on average over them."""
    runs: int
    """The calibration runs that count."""
    failures: int
    """How many of them fail."""
    more_runs: int | None
    """How many more calibration runs the promise needs. 0: it stands; None: no number of runs would do."""
    why: str
    """One line for people."""


@dataclass(frozen=True, kw_only=True)
class Threshold(CalibrationResult):
    """Exit at a run's first cue with a score above a value, and what that promises.

    In mode `selective` only the runs that exit count. Mode `event` uses no confidence.
    """

    value: float
    """The threshold; +inf: never exit."""
    mode: Mode
    """Which failure the risk bounds."""
    loosest: float = math.inf
    """With a confidence: the loosest threshold that still holds the risk."""


def runs_needed(mode: Mode, risk: float, confidence: float | None) -> int:
    """Fewest calibration runs, all without a failure, that can promise anything at all.

    With a confidence it is ceil(ln(1 - confidence) / ln(1 - risk)), counted in exited runs for `selective`. The
    marginal form takes ceil(1 / risk) - 1, counted in wrong cues for `event`.

    >>> runs_needed("harm", 0.05, 0.9), runs_needed("harm", 0.05, None)
    (45, 19)
    """
    check_request(mode, risk, confidence)
    if confidence is None or mode == "event":
        return math.ceil(1 / Fraction(str(float(risk)))) - 1
    return fewest(risk, confidence)


def check_request(mode: str, risk: float, confidence: float | None) -> None:
    """Raise ControllerError for a mode, risk or confidence that no procedure can take."""
    if mode not in MODES:
        raise ControllerError(f"mode is {mode!r:.60}; choose one of {', '.join(MODES)}")
    if not _is_share(risk):
        raise ControllerError(f"risk is {risk!r}; it must be above 0 and below 1, for example 0.05")
    if confidence is not None and not _is_share(confidence):
        raise ControllerError(f"confidence is {confidence!r}; it must be above 0 and below 1, or None (marginal)")
    if mode == "selective" and confidence is None:
        raise ControllerError("mode 'selective' has no marginal form; give a confidence, for example 0.9")


def _is_share(value: object) -> bool:
    """Whether a value is a number above 0 and below 1."""
    return isinstance(value, Real) and not isinstance(value, bool) and 0.0 < float(value) < 1.0


def check_evidence(table: Table) -> None:
    """Raise ControllerError where the table holds several runs of one problem."""
    if len(np.unique(table.problem)) < table.runs:
        raise ControllerError(
            f"the table holds {table.runs} runs of {len(np.unique(table.problem))} problems; runs of one problem are "
            "no independent evidence: keep one each (Table.one_per_problem)"
        )


def check_stopping(table: Table, mode: Mode, confidence: float | None) -> None:
    """Raise ControllerError for a promise that runs can't give if collecting could have stopped at several numbers."""
    if table.stopping is None or (table.stopping.design == "fixed" and len(table.stopping.analyses) == 1):
        return
    refused = {
        "mode 'event'": mode == "event",
        "a marginal promise": confidence is None,
        "mode 'selective'": mode == "selective" and table.stopping.design == "fixed",
    }
    if (asked := next((name for name, holds in refused.items() if holds), None)) is not None:
        raise ControllerError(
            f"{asked} needs a number of calibration runs that was fixed before the first of them; collecting these "
            f"could have stopped at {_listed(table.stopping.analyses)}. Ask for mode 'harm', 'wrong' or 'disagree' "
            "with a confidence, or calibrate anew with a fixed number of runs"
        )


def _listed(analyses: tuple[int, ...]) -> str:
    """Numbers of runs in words, the first few of them."""
    return ", ".join(map(str, analyses[:6])) + (" ..." if len(analyses) > 6 else "")


def choose_threshold(table: Table, grid: Grid, mode: Mode, risk: float, confidence: float | None) -> Threshold:
    """The threshold that calibration runs allow for a risk; +inf where they can promise nothing.

    Args:
        table: The calibration runs, one per problem. Where they have a stopping design, runs after its last analysis
            don't count, and the threshold holds whatever made collecting stop there.
        grid: Candidate thresholds.
        mode: Which failure the risk bounds. `event` is LYNX (arXiv 2512.05325) without its clamp, marginal.
        risk: Largest probability of a failure.
        confidence: Probability that the risk holds, by Learn-then-Test (Angelopoulos et al. 2021) with a fixed sequence
            down the grid. None: on average, by split conformal on each run's highest failing score.

    Raises:
        ControllerError: The request is impossible, also for runs with this stopping design; the runs aren't graded,
            or one problem has several.
    """
    check_request(mode, risk, confidence)
    check_stopping(table, mode, confidence)
    table = table.analysed()
    if mode != "disagree" and not table.graded:
        raise ControllerError(f"mode {mode!r} needs gold answers and these runs have none; use mode 'disagree'")
    check_evidence(table)
    if mode == "event":
        return _event(table, risk, confidence)
    if confidence is None:
        return _conformal(table, grid, mode, risk)
    return _learn_then_test(table, grid, mode, risk, confidence)


def failing_cues(table: Table, mode: Mode) -> Bools:
    """Shape (cues,): cues where an exit was tried and would be a failure of this mode."""
    if mode == "disagree":
        return np.asarray(~table.same & table.labelled)
    wrong = ~table.right & table.labelled
    return np.asarray(wrong & table.full_right[table.run_of]) if mode == "harm" else np.asarray(wrong)


def failures(table: Table, mode: Mode, threshold: float) -> tuple[int, int]:
    """Failures where every run exits at its first cue above `threshold`.

    Returns:
        The failing runs, and the runs that count: in mode `selective` only those that exit.
    """
    failed, n = failures_at(table, mode, np.array([threshold]))
    return int(failed[0]), int(n[0])


def failures_at(table: Table, mode: Mode, thresholds: Floats64) -> tuple[Ints, Ints]:
    """`failures` at every threshold, of shape (m,): two arrays of shape (m,)."""
    failed = table.sum_at_exits(thresholds, failing_cues(table, mode))
    exited = table.sum_at_exits(thresholds, np.ones(table.cues, dtype=bool))
    return failed, exited if mode == "selective" else np.full(len(failed), table.runs)


def count_failures(out: Outcomes, mode: Mode) -> tuple[int, int]:
    """The failing runs, and the runs that count, of any rule's outcomes; see `failures`."""
    failed = {"harm": out.harm, "disagree": out.disagree}.get(mode, out.wrong)
    return int(failed.sum()), int(out.exited.sum()) if mode == "selective" else len(failed)


def _learn_then_test(table: Table, grid: Grid, mode: Mode, risk: float, confidence: float) -> Threshold:
    """Learn-then-Test: accept down the grid while the p-value stays at most 1 - confidence; stop at the first failure.

    "Never exit" needs no test, so the sequence has no entry above every score. No run fails there, and p is
    (1 - risk)^n, the smallest p that n runs can give: that entry would fail only where all others fail too.
    """
    start, level, stopping = 0, confidence, table.stopping
    if mode == "selective":
        # The exits among the runs are no numbers that were fixed, so each analysis is a test of its own.
        level, stopping = confidence if stopping is None else stopping.split(confidence), None
        start = _strictest(table, grid, risk, level)
    candidates = grid.thresholds[start:]
    failed, n = failures_at(table, mode, candidates)
    held = accepted(failed, n, risk, level, stopping)
    share, what = (float(grid.exits.max()), "exited runs") if mode == "selective" else (1.0, "runs")
    promise = f"{MEANS[mode]} <= {risk} with confidence {confidence}"
    at = worthwhile(table, candidates[:held]) if held else 0
    count, of = int(failed[at]), int(n[at])
    more: int | None = 0
    if held == 0:
        value = loosest = math.inf
        more, missing = shortfall(count, of, risk, level, stopping, what=what, promise=promise, share=share)
        why = f"never exit: {missing}"
    else:
        value, loosest = float(candidates[at]), float(candidates[held - 1])
        calibration = what.replace("runs", "calibration runs")
        why = f"exit above {value:.4f}: {count} failures in {of} {calibration}; {promise}"
        why += f"; {_floor(grid)}" if held == len(candidates) and grid.floored else ""
    return Threshold(
        value=value,
        mode=mode,
        risk=risk,
        confidence=confidence,
        runs=of,
        failures=count,
        more_runs=more,
        why=why,
        loosest=loosest,
    )


def _strictest(table: Table, grid: Grid, risk: float, level: float) -> int:
    """Index of the first threshold of the grid that is tested in mode `selective`; in the others it is the strictest.

    The p-value of a threshold without exits is 1, and the sequence would stop at once. So it starts where the *fitting*
    split has twice the exits that are needed for a pass without a failure.
    """
    enough = grid.exits * table.runs >= 2 * runs_needed("selective", risk, level)
    return int(np.argmax(enough)) if enough.any() else len(grid.thresholds) - 1


def _floor(grid: Grid) -> str:
    """Why no looser threshold is offered."""
    return f"no exit was tried below the floor of {grid.loosest:.4f}, so no looser threshold is known (--labels all)"


def worthwhile(table: Table, thresholds: Floats64) -> int:
    """Index of the strictest accepted threshold that saves nearly what the best of them saves.

    All accepted thresholds hold the risk at once (the sequence controls the family-wise error), so any of them may be
    picked by what it does on the calibration runs. The last few tokens are where most of the failures are.
    """
    saved = table.sum_at_exits(thresholds, table.full_tokens[table.run_of] - table.exit_tokens)
    most = float(saved.max())
    return int(np.argmax(saved >= min(most, NEARLY * most)))


def _conformal(table: Table, grid: Grid, mode: Mode, risk: float) -> Threshold:
    """Split conformal: P(some failing cue of a run scores above the value) <= risk, on average over calibrations.

    Where exits were tried at records only, the failing *records* above the floor take the place of the failing cues.
    A run that fails at a threshold from the floor on fails at such a record, so the promise is the same. The value may
    be lower, and is never below the floor.
    """
    highest, n = table.highest(failing_cues(table, mode)), table.runs
    value, more = conformal_quantile(highest, risk), 0
    why = f"exit above {value:.4f}: {MEANS[mode]} <= {risk} on average over calibrations ({n} runs)"
    if value == math.inf:
        more = runs_needed(mode, risk, None) - n
        why = f"never exit: {n} calibration runs can't promise {MEANS[mode]} <= {risk}: {more} more runs are needed"
    elif grid.floored and value <= grid.loosest:
        value = grid.loosest
        why = f"exit above {value:.4f}: {MEANS[mode]} <= {risk} on average over calibrations ({n} runs); {_floor(grid)}"
    failed = int((highest > value).sum())
    return Threshold(
        value=value, mode=mode, risk=risk, confidence=None, runs=n, failures=failed, more_runs=more, why=why
    )


def _event(table: Table, risk: float, confidence: float | None) -> Threshold:
    """LYNX as published: exit iff the label-conditional set is {right}: score > q_wrong and 1 - score <= q_right.

    It has no form with a confidence, so a confidence is ignored, and `why` says so. LYNX's clamp of the quantile's
    index is left out: too few wrong cues give +inf, and too few right ones drop the second condition.
    """
    table.need_all_labels("mode 'event'")
    wrong, right = table.scores[~table.right], table.scores[table.right]
    # 1 - score <= q_right, as a bound on scores. A score at the bound passes, hence the next float below.
    leg = -conformal_quantile(-right, risk)
    value = max(conformal_quantile(wrong, risk), float(np.nextafter(leg, -math.inf)))
    failed, n, more = int((wrong > value).sum()), len(wrong), 0
    unused = "" if confidence is None else f"; on average over calibrations, the confidence {confidence} is not used"
    why = f"exit above {value:.4f}: {MEANS['event']} <= {risk}{unused}; nothing is promised for a run"
    if value == math.inf:
        least = runs_needed("event", risk, None)
        more = math.ceil((least - n) * table.runs / n) if n else max(least, 1)
        why = f"never exit: {n} wrong cues, level {risk} takes {least}: about {more} more runs are needed"
    return Threshold(
        value=value, mode="event", risk=risk, confidence=None, runs=table.runs, failures=failed, more_runs=more, why=why
    )
