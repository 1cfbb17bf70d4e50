"""Every signal on one footing: what each saves at each risk on the same recorded runs, measured on held-out problems.

Owns the re-splitting of a file of runs and its comparison; runs no model and writes no probe.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from reasonctl.controller import ControllerError
from reasonctl.probes import Promise
from reasonctl.probes.risk import NO_EXIT, Grid, Mode, Outcomes, Table
from reasonctl.probes.signals import make_signal

from ..fitting.all_signals import FittedSignals, fit_signals, scores_of
from ..fitting.tables import apply_to_table, make_table, outcomes_of
from ..parallel.run_jobs import ProgressCallback
from ..runs.arrays import RunArrays, to_arrays
from ..runs.records import RunRecord
from .baselines import Point, Result, ScoredRule, baseline_signals, budget_of_cost, evaluate, fixed_at, oracle

BUDGET = "budget, same risk"
RESAMPLES = 2000


@dataclass(frozen=True)
class Entry:
    """One signal, baseline rule or reference at one risk; means over the splits."""

    signal: str
    """Its name."""
    risk: float
    """The risk that its threshold was chosen for."""
    saved: float
    """Share of the plain runs' tokens that it saves, net of trials and exits."""
    low: float
    """The least of these over the splits."""
    high: float
    """The largest of these over the splits."""
    failed: float
    """Share of test runs that fail in the mode."""
    exit_rate: float
    """Share of test runs that exit."""
    certified: float
    """Share of the splits where the risk could be promised."""


@dataclass(frozen=True)
class Comparison:
    """All signals at all risks, and what the probe adds to a fixed cue."""

    entries: list[Entry]
    """Every signal, then the baseline rules and references; each at every risk."""
    gain_risk: float
    """The risk at which `gain` was measured."""
    gain: float
    """What `hidden` saves beyond the best fixed cue at equal failure, as a share of tokens."""
    gain_low: float
    """Lower end of its 95 % bootstrap interval."""
    gain_high: float
    """Upper end of that interval."""
    judged: int
    """Test runs of the first split, which the gain was measured on."""


class Gain(NamedTuple):
    """Savings beyond the best fixed cue at the same failure rate; shares of tokens."""

    mean: float
    """On the runs themselves."""
    low: float
    """Lower end of the 95 % bootstrap interval."""
    high: float
    """Upper end of the interval."""


class Parts(NamedTuple):
    """Runs in three parts."""

    fitting: RunArrays
    """A quarter."""
    calibrating: RunArrays
    """A quarter."""
    test: RunArrays
    """Half of them."""


class Ruled(NamedTuple):
    """What a rule does to the test runs of one split."""

    name: str
    """The rule."""
    outcomes: Outcomes
    """What becomes of each run."""
    certified: bool
    """Whether its risk could be promised."""


class Figures(NamedTuple):
    """A rule on one split, at one risk."""

    saved: float
    """Share of the plain runs' tokens that it saves."""
    failed: float
    """Share of runs that fail."""
    exit_rate: float
    """Share of runs that exit."""
    certified: float
    """1.0 where the risk could be promised, else 0.0."""


class _Split:
    """One split: everything fitted on its first quarter and calibrated on its second, to be measured on its half."""

    def __init__(self, parts: Parts, cues: Sequence[str], domains: Sequence[str], mode: Mode, seed: int) -> None:
        self.mode = mode
        self.fitted = fit_signals(parts.fitting, parts.calibrating, cues, domains, mode, seed=seed)
        self.test = make_table(parts.test, scores_of(self.fitted.probe, parts.test), cues)
        self.baselines = _baseline_signals(self.fitted, parts, self.test, cues, mode)
        self.tested = {
            name: self.test
            if name == "hidden"
            else apply_to_table(make_signal(name, self.fitted.stack), parts.test, self.test)
            for name in self.fitted.tables
        }

    def signals(self, promise: Promise) -> list[Ruled]:
        """Every signal, `hidden` first."""
        return _signals(self.fitted, self.tested, promise)

    def results(self, promise: Promise) -> list[tuple[Result, bool]]:
        """Every signal, baseline rule and reference, each with whether its risk could be promised."""
        rows = self.signals(promise)
        hidden = rows[0]
        rows = rows + _baselines(self.baselines, self.fitted.tables["hidden"].table, self.test, promise)
        results = [(evaluate(row.name, self.test, row.outcomes, self.mode), row.certified) for row in rows]
        equal_cost = budget_of_cost(self.test, float(hidden.outcomes.tokens.mean()), self.mode)
        return [*results, (equal_cost, hidden.certified), (oracle(self.test, self.mode), True)]


def compare_signals(
    records: Sequence[RunRecord],
    promise: Promise,
    *,
    risks: Sequence[float],
    splits: int,
    seed: int,
    progress: ProgressCallback = lambda done, total: None,
) -> Comparison:
    """All signals on the same runs, split by problem at random, several times over.

    Args:
        records: The runs. In every split a quarter fits, a quarter calibrates, and half are measured on.
        promise: Its mode and confidence hold for every signal; at its risk the gain over fixed cues is measured.
        risks: The risks to compare at; the promise's is one of them.
        splits: Number of splits.
        seed: Of the splits, the folds and the bootstrap.
        progress: Called after every split.

    Raises:
        ControllerError: The runs are too few to fit anything on.
    """
    _check(len(records), promise, risks)
    cues = sorted({cue.name for record in records for cue in record.cues})
    domains = sorted({record.domain for record in records})
    found: dict[tuple[str, float], list[Figures]] = {}
    for turn in range(splits):
        split = _Split(three_parts(records, f"signals {seed} {turn}"), cues, domains, promise.mode, seed)
        if turn == 0:
            hidden = split.signals(promise)[0].outcomes
            gain, runs = gain_over_fixed(split.test, hidden, promise.mode, seed), split.test.runs
        for risk in risks:
            for result, certified in split.results(replace(promise, risk=risk)):
                figures = Figures(result.saved_share, result.failed, result.exit_rate, float(certified))
                found.setdefault((result.name, risk), []).append(figures)
        progress(turn + 1, splits)
    entries = [_entry(name, risk, figures) for (name, risk), figures in found.items()]
    return Comparison(entries, promise.risk, gain.mean, gain.low, gain.high, runs)


def _check(runs: int, promise: Promise, risks: Sequence[float]) -> None:
    if runs < 8:
        raise ControllerError(f"{runs} runs are too few to fit, calibrate and test on; collect more")
    if promise.risk not in risks:
        raise ControllerError(f"the promise's risk is {promise.risk:g}; it must be one of the risks {list(risks)}")


def _entry(name: str, risk: float, measured: Sequence[Figures]) -> Entry:
    saved = [figures.saved for figures in measured]
    mean = Figures(*(float(np.mean(values)) for values in zip(*measured, strict=True)))
    return Entry(name, risk, mean.saved, min(saved), max(saved), mean.failed, mean.exit_rate, mean.certified)


def three_parts(records: Sequence[RunRecord], key: str) -> Parts:
    """A random split of the runs; the same for the same key."""
    order = random.Random(key).sample(range(len(records)), len(records))
    quarter = len(order) // 4
    parts = order[:quarter], order[quarter : 2 * quarter], order[2 * quarter :]
    return Parts(*(to_arrays([records[i] for i in sorted(part)]) for part in parts))


def _signals(fitted: FittedSignals, tested: Mapping[str, Table], promise: Promise) -> list[Ruled]:
    rows = []
    for name, calibrated in fitted.tables.items():
        value = promise.threshold(calibrated.table, calibrated.grid).value
        rows.append(Ruled(name, outcomes_of(tested[name], tested["hidden"], value), value < np.inf))
    return rows


def _baseline_signals(
    fitted: FittedSignals, parts: Parts, test: Table, cues: Sequence[str], mode: Mode
) -> list[ScoredRule]:
    """What a threshold can be put on without hidden states and trials: cue index, word, text, tokens so far."""
    fitting = make_table(parts.fitting, np.zeros(parts.fitting.offsets[-1]), cues)
    calibration = fitted.tables["hidden"].table
    scored = baseline_signals(fitting, calibration, test, mode, [part.text for part in parts])
    grid = Grid.of(fitting.with_scores(fitting.positions))
    return [*scored, ScoredRule(BUDGET, grid, calibration.positions, test.positions)]


def _baselines(scored: Sequence[ScoredRule], calibration: Table, test: Table, promise: Promise) -> list[Ruled]:
    rows = []
    for rule in scored:
        value = promise.threshold(calibration.with_scores(rule.calibration), rule.grid).value
        exits = test.with_scores(rule.evaluation).first_exit(value)
        rows.append(Ruled(rule.name, test.outcomes(exits), value < np.inf))
    return rows


def gain_over_fixed(table: Table, out: Outcomes, mode: Mode, seed: int) -> Gain:
    """Savings beyond the best fixed cue at the same failure rate.

    Every resample of the bootstrap is of whole runs, and the fixed cue is chosen anew in each: it may fit itself to the
    resample.
    """
    rng = np.random.default_rng(seed)
    lengths = np.diff(table.offsets)
    outs = [table.outcomes(np.where(lengths > k, k, NO_EXIT)) for k in range(int(lengths.max(initial=0)))]
    whole = _gain(table, out, outs, mode, np.arange(table.runs))
    drawn = [_gain(table, out, outs, mode, rng.integers(table.runs, size=table.runs)) for _ in range(RESAMPLES)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Gain(whole, float(low), float(high))


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
