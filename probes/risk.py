"""From a calibration table and a named risk to a threshold, with the exact procedures and nothing asymptotic.

Owns the statistics (methods F1, F2, F4, F5 and LYNX's own); the unit is one run of one problem, except in `event`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, get_args

import numpy as np
from scipy.special import bdtr, bdtrc, betaincinv

from ..controller import ControllerError
from .table import Bools, Floats64, Outcomes, Table

Mode = Literal["harm", "wrong", "selective", "disagree", "event"]
MODES: tuple[Mode, ...] = get_args(Mode)

NEARLY = 0.97
"""Share of the largest certified savings that a threshold must reach; the strictest such one is used."""

_MEANS = {
    "harm": "P(exit wrong and full run right)",
    "wrong": "P(exit wrong)",
    "selective": "P(wrong | exited)",
    "disagree": "P(exit's answer differs from the full run's)",
    "event": "per cue, not per run: P(exit allowed | wrong cue)",
}


@dataclass(frozen=True, eq=False)
class Grid:
    """Candidate thresholds, strictest first, fixed by the fitting split before any calibration run is looked at.

    thresholds: (size,), strictly falling. exits: (size,), the share of fitting runs that exit at each.
    """

    thresholds: Floats64
    exits: Floats64

    def __post_init__(self) -> None:
        values, exits = self.thresholds, self.exits
        if values.ndim != 1 or values.shape != exits.shape or len(values) == 0:
            raise ControllerError(f"a grid needs one exit share per threshold: shapes {values.shape} and {exits.shape}")
        if not np.isfinite(values).all() or (np.diff(values) >= 0).any() or not ((exits >= 0) & (exits <= 1)).all():
            raise ControllerError("a grid's thresholds must be finite and strictly fall, its exit shares lie in 0..1")

    @classmethod
    def of(cls, fitting: Table, size: int = 400) -> Grid:
        """At most `size` quantiles of the fitting split's scores; give it scores from held-out folds."""
        if size < 2 or fitting.cues == 0:
            raise ControllerError(f"a grid needs at least 2 quantiles of 1 cue, got {size} of {fitting.cues}")
        levels = np.linspace(0.0, 1.0, size)
        values = np.unique(np.quantile(fitting.scores, levels, method="inverted_cdf"))[::-1].copy()
        exits = np.array([np.mean(fitting.first_exit(float(v)) >= 0) for v in values])
        return cls(values, exits)


@dataclass(frozen=True)
class Threshold:
    """Exit at a run's first cue with score > value; +inf: never.

    runs, failures: the calibration runs behind it (exited runs in `selective`) and how many of them fail at `value`.
    more_runs: how many more calibration runs a promise needs (0: it stands; None: no number of runs would do).
    why: one line for people. loosest: with a confidence, the loosest threshold that holds the risk too.
    """

    value: float
    mode: Mode
    risk: float
    confidence: float | None
    runs: int
    failures: int
    more_runs: int | None
    why: str
    loosest: float = math.inf


def p_value(failures: int, n: int, risk: float) -> float:
    """P(Binomial(n, risk) <= failures): exact p-value of "the risk is above `risk`" (F4); 1 where n = 0."""
    return float(bdtr(failures, n, risk)) if n else 1.0


def upper_bound(count: int, n: int, confidence: float = 0.9) -> float:
    """One-sided Clopper-Pearson upper bound of a rate, from `count` of `n`.

    >>> round(upper_bound(0, 45), 4), upper_bound(3, 3), upper_bound(0, 0)
    (0.0499, 1.0, 1.0)
    """
    if not 0 <= count <= n:
        raise ControllerError(f"count is {count} of {n}; it must be between 0 and {n}")
    return 1.0 if count == n else float(betaincinv(count + 1, n - count, confidence))


def refutes(count: int, n: int, risk: float, level: float = 0.01) -> bool:
    """Whether `count` failures in `n` runs contradict "the risk is at most `risk`" (one-sided exact binomial test).

    >>> refutes(6, 100, 0.05), refutes(12, 100, 0.05)
    (False, True)
    """
    if not 0 <= count <= n:
        raise ControllerError(f"count is {count} of {n}; it must be between 0 and {n}")
    return count > 0 and float(bdtrc(count - 1, n, risk)) <= level


def runs_needed(mode: Mode, risk: float, confidence: float | None) -> int:
    """Fewest calibration runs, all without a failure, that can promise anything at all.

    With a confidence ceil(ln(1 - confidence) / ln(1 - risk)) (F4), counted in exited runs for `selective`;
    marginal ceil(1 / risk) - 1 (F1, F2), counted in wrong cues for `event`.

    >>> runs_needed("harm", 0.05, 0.9), runs_needed("harm", 0.05, None)
    (45, 19)
    """
    check_request(mode, risk, confidence)
    if confidence is None or mode == "event":
        return math.ceil(1 / Fraction(str(float(risk)))) - 1
    n = max(1, math.ceil(math.log(1 - confidence) / math.log1p(-risk)) - 1)
    while p_value(0, n, risk) > 1 - confidence:
        n += 1
    return n


def check_request(mode: str, risk: float, confidence: float | None) -> None:
    """Raise ControllerError for a mode, risk or confidence that no procedure can take."""
    if mode not in MODES:
        raise ControllerError(f"mode is {mode!r}; choose one of {', '.join(MODES)}")
    if not 0.0 < risk < 1.0:
        raise ControllerError(f"risk is {risk}; it must be above 0 and below 1, for example 0.05")
    if confidence is not None and not 0.0 < confidence < 1.0:
        raise ControllerError(f"confidence is {confidence}; it must be above 0 and below 1, or None (marginal)")
    if mode == "selective" and confidence is None:
        raise ControllerError("mode 'selective' has no marginal form; give a confidence, for example 0.9")


def choose_threshold(table: Table, grid: Grid, mode: Mode, risk: float, confidence: float | None) -> Threshold:
    """The loosest threshold that the table can promise `risk` for; +inf where it can promise nothing.

    With a confidence: Learn-then-Test (Angelopoulos et al. 2021), fixed sequence down the grid. None: split
    conformal on each run's highest failing score. `event`: LYNX (arXiv 2512.05325), without its clamp.
    Raises ControllerError on a bad request, on ungraded runs, and on several runs of one problem.
    """
    check_request(mode, risk, confidence)
    if mode != "disagree" and not table.graded:
        raise ControllerError(f"mode {mode!r} needs gold answers and these runs have none; use mode 'disagree'")
    if len(np.unique(table.problem)) < table.runs:
        raise ControllerError(
            f"the table holds {table.runs} runs of {len(np.unique(table.problem))} problems; runs of one problem are "
            "no independent evidence: keep one each (Table.one_per_problem)"
        )
    if mode == "event":
        return _event(table, risk)
    if confidence is None:
        return _conformal(table, mode, risk)
    return _learn_then_test(table, grid, mode, risk, confidence)


def failing_cues(table: Table, mode: Mode) -> Bools:
    """Shape (cues,): cues where an exit would be a failure of this mode."""
    if mode == "disagree":
        return np.asarray(~table.same)
    wrong = ~table.right
    return np.asarray(wrong & table.full_right[table.run_of]) if mode == "harm" else np.asarray(wrong)


def failures(table: Table, mode: Mode, threshold: float) -> tuple[int, int]:
    """(failing runs, runs that count): first exits above `threshold`; `selective` counts exited runs only."""
    return count_failures(table.outcomes(table.first_exit(threshold)), mode)


def count_failures(out: Outcomes, mode: Mode) -> tuple[int, int]:
    """(failing runs, runs that count) of any rule's outcomes."""
    failed = {"harm": out.harm, "disagree": out.disagree}.get(mode, out.wrong)
    return int(failed.sum()), int(out.exited.sum()) if mode == "selective" else len(failed)


def _learn_then_test(table: Table, grid: Grid, mode: Mode, risk: float, confidence: float) -> Threshold:
    """F4, F5: accept down the grid while the p-value stays at most 1 - confidence; stop at the first failure.

    The sequence needs no entry above every score: there no run fails and p = (1 - risk)^n, the smallest p that
    n runs can give, so that it fails only where all the others fail too; "never exit" needs no test. `selective`
    must not have such an entry: without exits its p is 1 and the sequence would end where it starts. So it starts
    at the strictest threshold where the *fitting* split promises twice the exits that a pass without a failure takes.
    """
    start = 0
    if mode == "selective":
        enough = grid.exits * table.runs >= 2 * runs_needed(mode, risk, confidence)
        start = int(np.argmax(enough)) if enough.any() else len(grid.thresholds) - 1
    accepted: list[float] = []
    counts = (0, 0)
    for candidate in grid.thresholds[start:]:
        counts = failures(table, mode, float(candidate))
        if p_value(*counts, risk) > 1 - confidence:
            break
        accepted.append(float(candidate))
    if not accepted:
        return _never(table, grid, mode, risk, confidence, counts)
    value = _worthwhile(table, accepted)
    failed, n = failures(table, mode, value)
    what = "exited calibration runs" if mode == "selective" else "calibration runs"
    promise = f"{_MEANS[mode]} <= {risk} with confidence {confidence}"
    why = f"exit above {value:.4f}: {failed} failures in {n} {what}; {promise}"
    return Threshold(value, mode, risk, confidence, n, failed, 0, why, accepted[-1])


def _worthwhile(table: Table, accepted: list[float]) -> float:
    """The strictest accepted threshold that saves nearly what the best of them saves.

    All accepted thresholds hold the risk at once (the sequence controls the family-wise error), so any of them may be
    picked by what it does on the calibration runs. The last few tokens are where most of the failures are.
    """
    full = float(table.full_tokens.sum())
    saved = [full - float(table.outcomes(table.first_exit(value)).tokens.sum()) for value in accepted]
    return next(value for value, tokens in zip(accepted, saved, strict=True) if tokens >= NEARLY * max(saved))


def _never(table: Table, grid: Grid, mode: Mode, risk: float, confidence: float, counts: tuple[int, int]) -> Threshold:
    """+inf from a fixed sequence, and what would help: more runs where runs are missing, else a better probe."""
    failed, n = counts
    least, more = runs_needed(mode, risk, confidence), None
    what, share = "runs", 1.0
    if mode == "selective":
        what, share = "exited runs", max(float(grid.exits.max()), 1e-9)
    if n < least:
        more = math.ceil((least - n) / share)
        why = (
            f"never exit: {n} calibration {what} can't promise {_MEANS[mode]} <= {risk} with confidence {confidence} "
            f"(it takes {least} without a failure): {more} more runs are needed"
        )
        return Threshold(math.inf, mode, risk, confidence, n, failed, more, why)
    total = next((m for m in _doubling(n) if p_value(math.ceil(failed * m / n), m, risk) <= 1 - confidence), None)
    more = None if total is None else math.ceil((total - n) / share)
    hope = "no number of runs would do" if more is None else f"at this rate about {more} more runs"
    why = (
        f"never exit: {failed} failures in {n} calibration {what} at the strictest threshold are too many for "
        f"{_MEANS[mode]} <= {risk} with confidence {confidence}; a better probe or a higher risk is needed ({hope})"
    )
    return Threshold(math.inf, mode, risk, confidence, n, failed, more, why)


def _doubling(n: int) -> list[int]:
    """Sample sizes from n to 1024 n, in steps of 5 %."""
    return [math.ceil(n * 1.05**i) for i in range(143)]


def _conformal(table: Table, mode: Mode, risk: float) -> Threshold:
    """F1, F2: P(some failing cue of a run scores above L) <= risk, on average over calibration draws."""
    highest, n = table.highest(failing_cues(table, mode)), table.runs
    value = _quantile(highest, risk)
    if value == math.inf:
        more = runs_needed(mode, risk, None) - n
        why = f"never exit: {n} calibration runs can't promise {_MEANS[mode]} <= {risk}: {more} more runs are needed"
        return Threshold(math.inf, mode, risk, None, n, 0, more, why)
    failed = int((highest > value).sum())
    why = f"exit above {value:.4f}: {_MEANS[mode]} <= {risk} on average over calibrations ({n} runs)"
    return Threshold(value, mode, risk, None, n, failed, 0, why)


def _quantile(scores: Floats64, risk: float) -> float:
    """The ceil((n + 1)(1 - risk))-th smallest score; +inf, not the largest, where that index is above n."""
    n = len(scores)
    index = n + 1 - math.floor((n + 1) * Fraction(str(float(risk))))  # the decimal that was typed, not its float
    return math.inf if index > n else float(np.partition(scores, index - 1)[index - 1])


def _event(table: Table, risk: float) -> Threshold:
    """LYNX as published: exit iff the label-conditional set is {right}: score > q_wrong and 1 - score <= q_right.

    Without its clamp of the quantile's index: too few wrong cues give +inf, too few right ones no second condition.
    """
    wrong, right = table.scores[~table.right], table.scores[table.right]
    leg = -_quantile(-right, risk)  # 1 - score <= q_right, said of scores; inclusive, hence the next float below
    value = max(_quantile(wrong, risk), float(np.nextafter(leg, -math.inf)))
    failed, n = int((wrong > value).sum()), len(wrong)
    if value == math.inf:
        least = runs_needed("event", risk, None)
        more = math.ceil((least - n) * table.runs / n) if n else max(least, 1)
        why = f"never exit: {n} wrong cues, level {risk} takes {least}: about {more} more runs are needed"
        return Threshold(math.inf, "event", risk, None, table.runs, 0, more, why)
    why = f"exit above {value:.4f}: {_MEANS['event']} <= {risk}; nothing is promised for a run"
    return Threshold(value, "event", risk, None, table.runs, failed, 0, why)
