"""Every signal on one footing: what each saves at each risk on the same recorded runs, judged by held-out problems.

Owns the re-splitting of a file of runs and its comparison; runs no model and writes no probe.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from reasonctl.controller import ControllerError
from reasonctl.probes.risk.table import NO_EXIT, Outcomes, Table
from reasonctl.probes.risk.threshold import Grid, Mode, choose_threshold
from reasonctl.probes.signals.signals import make_signal

from ..fitting.all_signals import FittedSignals, fit_signals, scores_of
from ..fitting.tables import judged_table, make_table, outcomes_of
from ..runs.arrays import RunArrays, cut
from .baselines import Point, Result, Scored, budget_of_cost, cheap_signals, evaluate, fixed_at

BUDGET = "budget, same risk"
ORACLE = "oracle"
RESAMPLES = 2000


@dataclass(frozen=True)
class Entry:
    """One signal, cheap rule or reference at one risk, means over the splits.

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
    """entries: signal by risk. gain: of `hidden` over the best fixed cue at equal failure, at `gain_risk`, share of
    tokens; gain_low, gain_high: its 95 % bootstrap interval over the first split's test runs, `judged` of them."""

    entries: list[Entry]
    gain_risk: float
    gain: float
    gain_low: float
    gain_high: float
    judged: int


def compare_signals(
    records: Sequence[dict[str, Any]],
    *,
    mode: Mode,
    risks: Sequence[float],
    confidence: float | None,
    splits: int,
    seed: int,
    gain_risk: float | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Comparison:
    """A quarter of the runs fits, a quarter calibrates, half judges; `splits` times, by problem, at random.

    gain_risk: one of `risks`, for the gain over fixed cues; None = the first.
    """
    gain_risk = risks[0] if gain_risk is None else gain_risk
    if len(records) < 8:
        raise ControllerError(f"{len(records)} runs are too few to fit, calibrate and judge on; collect more")
    cues = sorted({cue["name"] for record in records for cue in record["cues"]})
    found: dict[tuple[str, float], list[tuple[float, float, float, bool]]] = {}
    for turn in range(splits):
        fitting, calibrating, test = three_parts(records, f"signals {seed} {turn}")
        fitted = fit_signals(fitting, calibrating, cues, _domains(records), mode, seed=seed)
        judged = make_table(test, scores_of(fitted.probe, test), cues)
        cheap = _cheap_signals(fitted, (fitting, calibrating, test), judged, cues, mode)
        tested = {
            name: judged if name == "hidden" else judged_table(make_signal(name, fitted.stack), test, judged)
            for name in fitted.judged
        }
        for risk in risks:
            asked = mode, risk, confidence
            rows = _signals(fitted, tested, *asked)
            hidden = rows[0][1]
            if turn == 0 and risk == gain_risk:
                gain = gain_over_fixed(judged, hidden, mode, seed)
                runs = judged.runs
            rows += _cheap(cheap, fitted.judged["hidden"].table, judged, *asked)
            results = [(evaluate(name, judged, out, mode), certified) for name, out, certified in rows]
            results.append((budget_of_cost(judged, float(hidden.tokens.mean()), mode), rows[0][2]))
            results.append((_oracle(judged, mode), True))
            for result, certified in results:
                figures = result.saved_share, result.failed, result.exit_rate, certified
                found.setdefault((result.name, risk), []).append(figures)
        progress(turn + 1, splits)
    entries = []
    for (name, risk), measured in found.items():
        saved, *means = np.array(measured, dtype=np.float64).T
        low, high = float(saved.min()), float(saved.max())
        entries.append(Entry(name, risk, float(saved.mean()), low, high, *(float(mean.mean()) for mean in means)))
    return Comparison(entries, gain_risk, *gain, runs)


def _domains(records: Sequence[dict[str, Any]]) -> list[str]:
    return sorted({record["domain"] for record in records})


def three_parts(records: Sequence[dict[str, Any]], key: str) -> tuple[RunArrays, RunArrays, RunArrays]:
    order = random.Random(key).sample(range(len(records)), len(records))
    quarter = len(order) // 4
    parts = order[:quarter], order[quarter : 2 * quarter], order[2 * quarter :]
    fitting, calibrating, test = (cut([records[i] for i in sorted(part)]) for part in parts)
    return fitting, calibrating, test


Rows = list[tuple[str, Outcomes, bool]]
"""(rule, what it does to the test runs, whether its risk could be certified)"""


def _signals(
    fitted: FittedSignals, tested: Mapping[str, Table], mode: Mode, risk: float, confidence: float | None
) -> Rows:
    """Every signal, `hidden` first."""
    rows = []
    for name, calibrated in fitted.judged.items():
        value = choose_threshold(calibrated.table, calibrated.grid, mode, risk, confidence).value
        rows.append((name, outcomes_of(tested[name], tested["hidden"], value), value < np.inf))
    return rows


def _cheap_signals(
    fitted: FittedSignals, parts: tuple[RunArrays, RunArrays, RunArrays], judged: Table, cues: Sequence[str], mode: Mode
) -> list[Scored]:
    """What a threshold can be put on without hidden states and trials: cue index, word, text, tokens so far."""
    fitting, calibration = make_table(parts[0], np.zeros(parts[0].offsets[-1]), cues), fitted.judged["hidden"].table
    scored = cheap_signals(fitting, calibration, judged, mode, [part.text for part in parts])
    grid = Grid.of(fitting.with_scores(fitting.positions))
    return [*scored, (BUDGET, grid, calibration.positions, judged.positions)]


def _cheap(
    scored: Sequence[Scored], calibration: Table, judged: Table, mode: Mode, risk: float, confidence: float | None
) -> Rows:
    rows = []
    for name, grid, held, tested in scored:
        value = choose_threshold(calibration.with_scores(held), grid, mode, risk, confidence).value
        rows.append((name, judged.outcomes(judged.with_scores(tested).first_exit(value)), value < np.inf))
    return rows


def _oracle(judged: Table, mode: Mode) -> Result:
    """It exits at the earliest right cue of every run."""
    return evaluate(ORACLE, judged, judged.first_where(judged.same if mode == "disagree" else judged.right), mode)


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
