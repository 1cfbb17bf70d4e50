"""An exit rule and the baseline rules on the runs of an evaluation, under the same promise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reasonctl.probes import ProbeExit
from reasonctl.probes.risk import Table

from ..fitting.all_signals import scores_of
from ..fitting.saved_runs import halves
from ..fitting.tables import apply_to_table, make_table, outcomes_of
from ..runs.arrays import RunArrays, to_arrays
from ..runs.records import RunRecord
from .baselines import Extra, Point, Result, budget_of_cost, compare, evaluate, fixed_at, fixed_curve


@dataclass(frozen=True)
class BaselineComparison:
    """What the rule and the baseline rules do on the same runs."""

    results: list[Result]
    """The rule first; then cue index, the regressions, the budget of equal cost, and the oracle."""
    graded: bool
    """Whether there were gold answers: without them harm and accuracy are not known."""
    fixed_saved: float
    """Share of the tokens that the best fixed cue saves at the rule's own failure rate, interpolated."""
    curve: list[Point]
    """Always exit at cue k, for every k."""
    full_tokens: float
    """Mean tokens of a run without control."""
    flattered: bool
    """The baseline rules were fitted and given their thresholds on these very runs: the calibration runs can't tell."""

    def to_json(self) -> list[dict[str, object]]:
        """The `baselines` of `ctl eval --json`."""
        points = [{"cue": p.cue, "failed": p.failed, "saved": p.saved / self.full_tokens} for p in self.curve]
        fixed = {"name": "fixed cue at the probe's failure rate", "saved": self.fixed_saved, "curve": points}
        return [*(self._result(result) for result in self.results), fixed]

    def _result(self, result: Result) -> dict[str, object]:
        return {
            "name": result.name,
            "saved": result.saved_share,
            "failed": result.failed,
            "exit_rate": result.exit_rate,
            "harm": result.harm if self.graded else None,
            "accuracy": result.accuracy if self.graded else None,
        }


def compare_with_baselines(
    rule: ProbeExit, collected: list[RunRecord] | None, records: list[RunRecord]
) -> BaselineComparison | None:
    """Replay the rule on full runs, and apply the baseline rules to the same runs.

    Args:
        rule: The exit rule that was evaluated.
        collected: The runs that its probe was made from; without them the regressions are left out. They aren't read
            where exits were tried at some of their cues only: then the baseline rules get what they need from
            `records`, which flatters them.
        records: The evaluation's full runs, with an exit tried at every cue.

    Returns:
        None if the evaluation's runs met no cue.
    """
    runs = to_arrays(records)
    if runs.offsets[-1] == 0:
        return None
    content, promise = rule.content, rule.promise
    plain = make_table(runs, scores_of(content.probe, runs), content.card.cues)
    own = _replayed(rule, runs, plain)
    calibration = content.signal_table("hidden", promise.domain).table
    flattered = not content.table.all_labelled
    fitting: Table | None = None
    extra: Extra | None = None
    if flattered:
        fitting, calibration, extra = plain, plain, [runs.text] * 3
    elif collected is not None:
        fitting, extra = _fitting(rule, collected, runs)
    baselines = compare(fitting, calibration, plain, promise, grid=content.grid, extra=extra)[1:]
    budget = budget_of_cost(plain, float(own.tokens.mean()), promise.mode)
    curve, full = fixed_curve(plain, promise.mode), float(np.mean(plain.full_tokens))
    results = [own, *baselines[:-1], budget, baselines[-1]]
    return BaselineComparison(results, plain.graded, fixed_at(curve, own.failed) / full, curve, full, flattered)


def _fitting(rule: ProbeExit, collected: Sequence[RunRecord], runs: RunArrays) -> tuple[Table, Extra]:
    """The table of the fitting runs, and the text features of the fitting, calibration and evaluation runs."""
    fitting, calibration = halves(rule.content, collected)
    if (domain := rule.promise.domain) is not None:
        calibration = [record for record in calibration if record.domain == domain]
    parts = to_arrays(fitting), to_arrays(calibration)
    table = make_table(parts[0], scores_of(rule.content.probe, parts[0]), rule.content.card.cues)
    return table, [part.text for part in (*parts, runs)]


def _replayed(rule: ProbeExit, runs: RunArrays, plain: Table) -> Result:
    """What the rule itself does to these runs: its signal, its threshold, its trials, its giving up."""
    hidden = rule.signal_name == "hidden"
    calibrated = plain if hidden else apply_to_table(rule.signal, runs, plain)
    out = outcomes_of(calibrated, plain, rule.threshold.value, rule.lower.curve if rule.lower else None)
    return evaluate("probe" if hidden else rule.signal_name, plain, out, rule.promise.mode, rule.threshold)
