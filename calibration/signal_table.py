"""Every signal on one footing: what each saves at each risk on the same recorded runs, judged by held-out problems.

Owns the re-splitting of a file of runs and its comparison; runs no model and writes no probe.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..controller import ControllerError
from ..probes.risk import Grid, Mode, choose_threshold, count_failures
from ..probes.signals import make_signal
from ..probes.table import NO_EXIT, Outcomes, Table
from .baselines import Point, fixed_at
from .calibrate import FittedSignals, fit_signals, scores_of
from .collect import Cut, cut
from .replay import judged_table, make_table

BUDGET = "fixed budget"
ORACLE = "oracle"
RESAMPLES = 2000


@dataclass(frozen=True)
class Entry:
    """One signal at one risk, means over the splits.

    saved: share of the plain runs' tokens, net of trials and exits. low, high: least and largest over the splits.
    failed: share of test runs that fail in the mode. certified: share of the splits where the risk could be promised.
    """

    signal: str
    risk: float
    saved: float
    low: float
    high: float
    failed: float
    exit_rate: float
    certified: float


@dataclass(frozen=True)
class Comparison:
    """entries: signal by risk. gain: of `hidden` over the best fixed cue at equal failure, first risk, share of tokens;
    gain_low, gain_high: its 95 % bootstrap interval over the test runs of the first split, of which there are runs."""

    entries: list[Entry]
    gain: float
    gain_low: float
    gain_high: float
    runs: int


def compare_signals(
    records: Sequence[dict[str, Any]], *, mode: Mode, risks: Sequence[float], confidence: float | None, splits: int,
    seed: int, progress: Callable[[int, int], None] = lambda done, total: None,
) -> Comparison:  # fmt: skip
    """A quarter of the runs fits, a quarter calibrates, half judges; `splits` times, by problem, at random."""
    if len(records) < 8:
        raise ControllerError(f"{len(records)} runs are too few to fit, calibrate and judge on; collect more")
    cues = sorted({cue["name"] for record in records for cue in record["cues"]})
    found: dict[tuple[str, float], list[tuple[float, float, float, bool]]] = {}
    for turn in range(splits):
        fitting, calibrating, test = three_parts(records, f"signals {seed} {turn}")
        fitted = fit_signals(fitting, calibrating, cues, _domains(records), mode, seed=seed)
        judged = make_table(test, scores_of(fitted.probe, test), cues)
        plain = float(judged.full_tokens.mean())
        for name, risk, out, certified in _outcomes(fitted, fitting, test, judged, mode, risks, confidence):
            failed, n = count_failures(out, mode)
            row = (1 - float(out.tokens.mean()) / plain, failed / max(n, 1), float(out.exited.mean()), certified)
            found.setdefault((name, risk), []).append(row)
            if turn == 0 and name == "hidden" and risk == risks[0]:
                gain = gain_over_fixed(judged, out, mode, seed)
                runs = judged.runs
        progress(turn + 1, splits)
    entries = []
    for (name, risk), rows in found.items():
        saved, *means = np.array(rows, dtype=np.float64).T
        low, high = float(saved.min()), float(saved.max())
        entries.append(Entry(name, risk, float(saved.mean()), low, high, *(float(mean.mean()) for mean in means)))
    return Comparison(entries, *gain, runs)


def _domains(records: Sequence[dict[str, Any]]) -> list[str]:
    return sorted({record["domain"] for record in records})


def three_parts(records: Sequence[dict[str, Any]], key: str) -> tuple[Cut, Cut, Cut]:
    order = random.Random(key).sample(range(len(records)), len(records))
    quarter = len(order) // 4
    parts = order[:quarter], order[quarter : 2 * quarter], order[2 * quarter :]
    fitting, calibrating, test = (cut([records[i] for i in sorted(part)]) for part in parts)
    return fitting, calibrating, test


def _outcomes(
    fitted: FittedSignals, fitting: Cut, test: Cut, judged: Table, mode: Mode, risks: Sequence[float],
    confidence: float | None,
) -> list[tuple[str, float, Outcomes, bool]]:  # fmt: skip
    """(signal, risk, what it does to the test runs, whether certified); with the fixed budget and the oracle."""
    rows = []
    for name, calibrated in fitted.judged.items():
        tested = judged if name == "hidden" else judged_table(make_signal(name, fitted.stack), test, judged)
        for risk in risks:
            value = choose_threshold(calibrated.table, calibrated.grid, mode, risk, confidence).value
            # A rule that never exits tries nothing: its runs cost what plain ones do.
            used = tested if value < np.inf else judged
            rows.append((name, risk, used.outcomes(tested.first_exit(value)), value < np.inf))
    base = fitted.judged["hidden"].table
    budget = base.with_scores(base.positions)
    grid = Grid.of(make_table(fitting, fitting.per_cue("position"), _names(fitting)))
    for risk in risks:
        value = choose_threshold(budget, grid, mode, risk, confidence).value
        tested = judged.with_scores(judged.positions)
        rows.append((BUDGET, risk, tested.outcomes(tested.first_exit(value)), value < np.inf))
        target = judged.same if mode == "disagree" else judged.right
        rows.append((ORACLE, risk, judged.outcomes(judged.first_where(target)), True))
    return rows


def _names(runs: Cut) -> list[str]:
    return sorted(set(runs.per_cue("name")))


def gain_over_fixed(table: Table, out: Outcomes, mode: Mode, seed: int) -> tuple[float, float, float]:
    """Savings beyond the best fixed cue at the same failure rate, with a 95 % bootstrap interval; shares of tokens.

    Every resample is of whole runs, and the fixed cue is chosen anew in each: it may fit itself to the resample.
    """
    rng = np.random.default_rng(seed)
    lengths = np.diff(table.offsets)
    outs = [table.outcomes(np.where(lengths > k, k, NO_EXIT)) for k in range(int(lengths.max(initial=0)))]
    whole = _gain(table, out, outs, mode, np.arange(table.runs))
    drawn = [_gain(table, out, outs, mode, rng.integers(table.runs, size=table.runs)) for _ in range(RESAMPLES)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return whole, float(low), float(high)


def _gain(table: Table, out: Outcomes, fixed: Sequence[Outcomes], mode: Mode, rows: npt.NDArray[np.int64]) -> float:
    full = table.full_tokens[rows].mean()
    points = [Point(NO_EXIT, 0.0, 0.0)]
    for k in range(len(fixed) - 1, -1, -1):
        points.append(Point(k, _rate(fixed[k], mode, rows), float(full - fixed[k].tokens[rows].mean())))
    best = fixed_at(points, _rate(out, mode, rows))
    return float((full - out.tokens[rows].mean() - best) / full)


def _rate(out: Outcomes, mode: Mode, rows: npt.NDArray[np.int64]) -> float:
    failed = {"harm": out.harm, "disagree": out.disagree}.get(mode, out.wrong)[rows]
    counted = out.exited[rows].sum() if mode == "selective" else len(rows)
    return float(failed.sum() / max(counted, 1))
