"""What baseline rules would have done on the same recorded runs, thresholded by the same procedure as the probe.

Owns the rules and their comparison; runs no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from reasonctl.controller import ControllerError
from reasonctl.probes import Promise
from reasonctl.probes.risk import (
    NO_EXIT,
    Bools,
    Floats64,
    Grid,
    Ints,
    Mode,
    Outcomes,
    Table,
    Threshold,
    count_failures,
    upper_bound,
)

EQUAL_COST = "budget, equal cost"
ORACLE = "oracle"

Extra = Sequence[npt.NDArray[Any]]
"""One matrix per split (fitting, calibration, evaluation), each of shape (cues, m)."""


class ScoredRule(NamedTuple):
    """A rule that a threshold can be put on."""

    name: str
    """What tables call it."""
    grid: Grid
    """Its candidate thresholds."""
    calibration: Floats64 | Ints
    """Its scores at the cues of the calibration runs."""
    evaluation: Floats64 | Ints
    """Its scores at the cues of the evaluation runs."""


@dataclass(frozen=True, eq=False)
class Result:
    """One rule on the evaluation runs."""

    name: str
    """What tables call it."""
    threshold: Threshold | None
    """None: the rule has none."""
    exit_rate: float
    """Share of runs that exit."""
    saved: float
    """Mean tokens saved per run, net of the exit's own."""
    saved_share: float
    """The same as a share of the full runs' mean."""
    failed: float
    """Share of runs that fail in the mode asked for; in `selective` of the exited runs."""
    failed_upper: float
    """One-sided 90 % bound of that share."""
    harm: float
    """Share of runs that lose a right answer."""
    help: float
    """Share of runs that gain one."""
    accuracy: float
    """Share of right answers among those given."""
    tokens: npt.NDArray[Any]
    """Shape (runs,): the cost of each run, in expectation where a coin chooses."""


@dataclass(frozen=True)
class Point:
    """The rule `always exit at cue k`."""

    cue: int
    """k, from 0; NO_EXIT: never."""
    failed: float
    """Share of failing runs."""
    saved: float
    """Mean tokens saved per run."""


def evaluate(name: str, table: Table, rule: Ints | Outcomes, mode: Mode, threshold: Threshold | None = None) -> Result:
    """What a rule does on these runs. rule: the cue at which it exits each of them, shape (runs,), or the outcomes."""
    out = rule if isinstance(rule, Outcomes) else table.outcomes(rule)
    failed, n = count_failures(out, mode)
    full, tokens = float(table.full_tokens.mean()), float(out.tokens.mean())
    harm, helped = float(out.harm.mean()), float(out.help.mean())
    return Result(
        name,
        threshold,
        float(out.exited.mean()),
        full - tokens,
        (full - tokens) / full if full else 0.0,
        failed / n if n else 0.0,
        upper_bound(failed, n),
        harm,
        helped,
        float(table.full_right.mean()) - harm + helped,
        out.tokens,
    )


def compare(
    fitting: Table | None,
    calibration: Table,
    evaluation: Table,
    promise: Promise,
    *,
    grid: Grid | None = None,
    extra: Extra | None = None,
) -> list[Result]:
    """The probe and the baseline rules, each under the same promise.

    Args:
        fitting: The runs that the two regressions are fitted on. None: they are left out.
        calibration: The runs that every rule gets its threshold from. Its scores are the probe's.
        evaluation: The runs that every rule is measured on. Its scores are the probe's.
        promise: Its mode, risk and confidence hold for every rule.
        grid: The probe file's, so that the probe is measured at the very threshold of its exit rule. None: taken from
            `fitting`, whose scores must be held-out ones.
        extra: Text features, for the rule that reads them. None: it is left out.

    Returns:
        In this order: the probe; cue index (always exit at cue k, k calibrated); index + word (logistic regression);
        index + word + text (for example how often the current value was named before); the oracle (earliest right cue).
    """
    _check_cues([calibration, evaluation] if fitting is None else [calibration, evaluation, fitting])
    mode = promise.mode
    if grid is None:
        grid = _grid_of(fitting)
    rules = [ScoredRule("probe", grid, calibration.scores, evaluation.scores)]
    rules += baseline_signals(fitting, calibration, evaluation, mode, extra)
    results = [_measured(rule, calibration, evaluation, promise) for rule in rules]
    return [*results, oracle(evaluation, mode)]


def _check_cues(tables: Sequence[Table]) -> None:
    """Raise ControllerError if a split has no run or no cue."""
    if any(table.runs == 0 or table.cues == 0 for table in tables):
        raise ControllerError(
            f"comparing rules needs runs with cues in every split, got {[t.cues for t in tables]} cues"
        )


def _grid_of(fitting: Table | None) -> Grid:
    if fitting is None:
        raise ControllerError("comparing rules needs the probe's grid or the fitting split; give one")
    return Grid.of(fitting)


def _measured(rule: ScoredRule, calibration: Table, evaluation: Table, promise: Promise) -> Result:
    """A rule at the threshold that the promise allows it, on the evaluation's runs."""
    threshold = promise.threshold(calibration.with_scores(rule.calibration), rule.grid)
    # Baseline rules get all that is certified; the probe is measured as it is deployed.
    value = threshold.value if rule.name == "probe" or promise.confidence is None else threshold.loosest
    exits = evaluation.with_scores(rule.evaluation).first_exit(value)
    return evaluate(rule.name, evaluation, exits, promise.mode, threshold)


def baseline_signals(
    fitting: Table | None, calibration: Table, evaluation: Table, mode: Mode, extra: Extra | None = None
) -> list[ScoredRule]:
    """The baseline rules of `compare` that have a threshold, as scores."""
    grid = _index_grid(fitting or calibration)
    rules = [ScoredRule("cue index", grid, calibration.cue_index, evaluation.cue_index)]
    return rules if fitting is None else rules + _regressions(fitting, calibration, evaluation, mode, extra)


def oracle(table: Table, mode: Mode) -> Result:
    """What exits every run at its earliest right cue: no rule can save more."""
    return evaluate(ORACLE, table, table.first_where(right_exits(table, mode)), mode)


def budget_of_cost(table: Table, tokens: float, mode: Mode) -> Result:
    """The fixed budget that costs `tokens` a run on average: exit at the first cue after so many tokens.

    A coin chooses between the loosest budget that costs no more and the next one, so that the mean is met exactly.
    Where even an exit at every first cue costs more, that is what is given. It is fitted to these very runs, and
    promises nothing.
    """
    timed = table.with_scores(table.positions)
    budgets = np.concatenate([[-1.0], np.unique(timed.scores)])
    spared = timed.sum_at_exits(budgets, table.full_tokens[table.run_of] - table.exit_tokens)
    costs = (table.full_tokens.sum() - spared) / table.runs
    at = int(np.flatnonzero(costs <= tokens).max(initial=0))
    after = min(at + 1, len(budgets) - 1)
    a, b = (evaluate(EQUAL_COST, table, timed.first_exit(float(budgets[i])), mode) for i in (at, after))
    between = costs[at] <= tokens < costs[after]
    share = float((costs[after] - tokens) / (costs[after] - costs[at])) if between else 1.0
    return _mixed(a, b, share, mode)


def _mixed(a: Result, b: Result, share: float, mode: Mode) -> Result:
    """In expectation, with probability `share` of rule `a` in every run; `selective` counts the exits of both."""

    def mean(name: str) -> Any:
        return share * getattr(a, name) + (1 - share) * getattr(b, name)

    weight = share
    if mode == "selective":
        weight = share * a.exit_rate / mean("exit_rate") if mean("exit_rate") else 1.0
    failed, upper = (weight * getattr(a, name) + (1 - weight) * getattr(b, name) for name in ("failed", "failed_upper"))
    rest = ("exit_rate", "saved", "saved_share", "harm", "help", "accuracy", "tokens")
    return replace(a, failed=failed, failed_upper=upper, **{name: mean(name) for name in rest})


def fixed_curve(table: Table, mode: Mode) -> list[Point]:
    """Never exit, then always exit at cue k, from the last k that any run reaches down to the first."""
    points = [Point(NO_EXIT, 0.0, 0.0)]
    lengths = np.diff(table.offsets)
    for k in range(int(lengths.max(initial=0)) - 1, -1, -1):
        result = evaluate("", table, np.where(lengths > k, k, NO_EXIT), mode)
        points.append(Point(k, result.failed, result.saved))
    return points


def fixed_at(curve: Sequence[Point], failed: float) -> float:
    """Most mean tokens that a fixed cue saves at this failing share, a coin choosing between cue k and k + 1.

    In expectation a coin's failures and savings lie on the line between its two points. For modes that count all
    runs; `selective` divides by the exits, where the line is no more than a guide.
    """
    best = max((point.saved for point in curve if point.failed <= failed), default=0.0)
    for a, b in zip(curve, curve[1:], strict=False):
        low, high = sorted((a, b), key=lambda point: point.failed)
        if low.failed <= failed < high.failed:
            share = (failed - low.failed) / (high.failed - low.failed)
            best = max(best, low.saved + share * (high.saved - low.saved))
    return best


def verdict(results: Sequence[Result]) -> str:
    """One line: whether the probe (first) saves more than the best baseline rule.

    The oracle (last) is no rule to beat, and neither is a budget of equal cost, which saves the same by its making.
    "More" means that the paired mean difference in tokens is above 1.645 standard errors (one-sided 5 %).
    """
    probe = results[0]
    best = max((r for r in results[1:-1] if r.name != EQUAL_COST), key=lambda result: result.saved)
    who = "the probe" if probe.name == "probe" else f"the signal {probe.name!r}"
    if probe.saved <= 0.0:
        return f"no savings here: {who} saves {probe.saved:z.1f} tokens per run"
    gain = best.tokens.astype(np.float64) - probe.tokens
    error = float(gain.std(ddof=1)) / len(gain) ** 0.5 if len(gain) > 1 else float("inf")
    mean, much = float(gain.mean()), f"{probe.saved:z.1f} tokens per run, {best.name!r} {best.saved:z.1f}"
    if mean > 1.645 * error:
        return f"{who} saves more than every cheap rule: {much}"
    return f"{who} does not clearly beat a cheap rule ({mean:+z.1f} +- {error:.1f}): it saves {much}"


def right_exits(table: Table, mode: Mode) -> Bools:
    """Shape (cues,): whether an exit there would be right; in `disagree`, as the full run answers."""
    return np.asarray(table.same if mode == "disagree" else table.right)


def _checked(extra: npt.NDArray[Any], table: Table) -> npt.NDArray[Any]:
    if extra.ndim != 2 or len(extra) != table.cues or not np.isfinite(extra).all():
        raise ControllerError(
            f"text features have shape {extra.shape}; they need one finite row per cue: {table.cues} rows"
        )
    return extra


def _index_and_word(table: Table, words: int) -> npt.NDArray[np.float64]:
    """Shape (cues, 2 + words): index, its logarithm, and the cue's word as one-hot."""
    index = table.cue_index.astype(np.float64)
    return np.column_stack([index, np.log1p(index), np.eye(words)[table.cue_name]])


def _index_grid(table: Table) -> Grid:
    """From `exit at the last cue` down to `exit at the first`; shares of a split that is not the calibration's."""
    lengths = np.diff(table.offsets)
    indices = np.arange(int(lengths.max()) - 1, -1, -1, dtype=np.float64)
    return Grid(indices - 0.5, np.array([np.mean(lengths > k) for k in indices]))


def _regressions(
    fitting: Table, calibration: Table, evaluation: Table, mode: Mode, extra: Extra | None
) -> list[ScoredRule]:
    """The fitted baseline rules."""
    tables = (fitting, calibration, evaluation)
    words = int(max(table.cue_name.max() for table in tables)) + 1
    features = {"index + word": [_index_and_word(table, words) for table in tables]}
    if extra is not None:
        pairs = zip(features["index + word"], extra, tables, strict=True)
        features["index + word + text"] = [np.hstack([plain, _checked(text, table)]) for plain, text, table in pairs]
    rules = []
    for name, matrices in features.items():
        own, calibrating, evaluating = _regression(fitting, matrices, mode)
        rules.append(ScoredRule(name, Grid.of(fitting.with_scores(own)), calibrating, evaluating))
    return rules


def _regression(fitting: Table, features: list[npt.NDArray[Any]], mode: Mode) -> list[npt.NDArray[Any]]:
    """Scores of every split by a logistic regression on the fitting split; a constant where it holds one label only."""
    labels = right_exits(fitting, mode)
    if labels.all() or not labels.any():
        return [np.full(len(x), float(labels.any())) for x in features]
    model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=500))
    model.fit(features[0], labels)
    return [model.predict_proba(x)[:, 1] for x in features]
