"""`P.html`: what a probe file promises, what was measured, and on which runs, for someone who has a minute.

Owns the numbers and the words; every number comes from the files given. figures.py draws, highlights.py picks the runs,
report.html.jinja is the page. The same files give the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from reasonctl.controller import ControllerError
from reasonctl.probes import Promise, make_exit
from reasonctl.probes.files import ProbeFile, SignalTable, check_target, write_whole
from reasonctl.probes.risk import Floats64, GiveUp, Ints, Threshold, count_failures, failing_cues, failures_at
from reasonctl.probes.signals import SIGNALS

from ..evaluation.baselines import fixed_curve, right_exits
from ..fitting.saved_runs import halves
from ..fitting.tables import outcomes_of
from ..runs.records import RunRecord
from ..runs.splits import runs_path
from . import figures
from . import report_parts as parts
from .highlights import RuleOutcome, pick
from .template import page_template
from .wording import FAIL, FAILED, SHOWN_RISKS, facts, level, number, percentage, promise, share_of


def write_report(
    path: Path,
    content: ProbeFile,
    request: Promise,
    records: Sequence[RunRecord] | None,
    evaluation: Mapping[str, Any] | None,
    *,
    force: bool,
) -> None:
    """Write the page, whole or not at all. records: the collected runs, both halves, if they are at hand."""
    check_target(path, force)
    write_whole(path, render(content, request, records, evaluation).encode())


def check_page(page: Path, probe: Path, force: bool, *others: Path) -> None:
    """Raise ControllerError if the page can't be put there, or would take the place of a file that it is made from."""
    for taken in (probe, runs_path(probe), *others):
        if page.resolve() == taken.resolve():
            raise ControllerError(f"the page would take the place of {str(taken)!r}, which it is made from; rename one")
    check_target(page, force)


def render(
    content: ProbeFile,
    request: Promise,
    records: Sequence[RunRecord] | None,
    evaluation: Mapping[str, Any] | None,
) -> str:
    """The page. Raises ControllerError if the probe file wasn't made from these records."""
    rows = _rows(content, request.domain)
    if not len(rows):
        raise ControllerError("the probe file holds no calibration run to report on; calibrate with more -n")
    calibration = None if records is None else halves(content, records).calibration
    subject = _Subject(content, request, rows)
    outcome = subject.outcome()
    picked, absent = pick(outcome)
    examples = [
        parts.example(outcome, content, one, None if calibration is None else calibration[rows[one.run]])
        for one in picked
    ]
    template = page_template("report.html.jinja", percent=percentage, share=share_of, number=number, basename=_basename)
    return template.render(
        card=content.card,
        facts=facts(content.card),
        auc=content.card.report.get("auc"),
        request=request,
        promise=promise(request),
        level=level(request),
        fail=FAIL[request.mode],
        failed=FAILED[request.mode],
        rule=parts.rule(outcome, subject.threshold, subject.lower, request),
        levels=subject.levels(),
        evaluation=evaluation,
        measured=None if evaluation is None else parts.measured(evaluation, request),
        signals=figures.legend(subject.signals),
        figures=subject.drawn(outcome, evaluation),
        context=parts.context(outcome, subject.signal_table("hidden").table, request),
        domains=parts.domains(content, outcome, rows, request),
        examples=examples,
        absent=absent,
        with_runs=calibration is not None,
    )


@dataclass(frozen=True)
class _Cell:
    """One signal at one risk, on the calibration runs."""

    risk: float
    """The risk."""
    saved: float
    """Share of tokens saved."""
    failed: int
    """Runs that break the promise."""
    n: int
    """Runs that count for it."""
    more: int | None
    """Further runs that the promise needs. None: no number would do."""
    exits: bool
    """Whether the rule can exit."""
    here: bool
    """Whether this is the risk asked for."""


@dataclass(frozen=True)
class _SignalRow:
    """One signal at every risk."""

    signal: str
    """Its name."""
    cells: list[_Cell]
    """One for each risk, in order."""
    chosen: bool
    """Whether this is the signal asked for."""


@dataclass(frozen=True, eq=False)
class _Subject:
    """A probe file, and what is asked of it."""

    content: ProbeFile
    """The file."""
    request: Promise
    """The promise that the page is about."""
    rows: Ints
    """The calibration runs that the promise is about: indices into the file's table."""

    @property
    def signals(self) -> list[str]:
        """The one asked for first."""
        plugged = sorted(set(self.content.others) - set(SIGNALS))
        known = [name for name in (*SIGNALS, *plugged) if name == "hidden" or name in self.content.others]
        return sorted(known, key=lambda name: name != self.request.signal)

    @property
    def plain(self) -> float:
        """Mean tokens of a run without a rule."""
        return float(self.signal_table("hidden").table.full_tokens.mean())

    @property
    def threshold(self) -> Threshold:
        """What the request's rule exits above."""
        return self._threshold(self.request.signal, self.request.risk)

    @cached_property
    def lower(self) -> GiveUp | None:
        """The curve below which the rule gives up. None: it doesn't."""
        return None if self.request.give_up is None else make_exit(self.content, self.request).lower

    def outcome(self) -> RuleOutcome:
        """What the rule does to the promise's runs."""
        table, mode = self.signal_table(self.request.signal).table, self.request.mode
        value = self.threshold.value
        plain = self.signal_table("hidden").table
        out = outcomes_of(table, plain, value, self.lower.curve if self.lower else None)
        target = right_exits(table, mode) & table.labelled
        return RuleOutcome(table, value, out, target, failing_cues(table, mode), plain.full_tokens)

    def levels(self) -> list[_SignalRow]:
        """Every signal at every risk: what it saves on the calibration runs, or how many more runs it needs."""
        risks = sorted({*SHOWN_RISKS, self.request.risk})
        rows = []
        for name in self.signals:
            cells = []
            for risk in risks:
                limit, table = self._threshold(name, risk), self.signal_table(name).table
                out = outcomes_of(table, self.signal_table("hidden").table, limit.value)
                failed, n = count_failures(out, self.request.mode)
                share, exits = 1 - float(out.tokens.mean()) / self.plain, limit.value < np.inf
                cells.append(_Cell(risk, share, failed, n, limit.more_runs, exits, risk == self.request.risk))
            rows.append(_SignalRow(name, cells, name == self.request.signal))
        return rows

    def drawn(self, outcome: RuleOutcome, evaluation: Mapping[str, Any] | None) -> dict[str, Markup]:
        """The figures, safe to inline: they hold numbers and fixed words only."""
        table, out, mode = outcome.table, outcome.out, self.request.mode
        exited = out.exited
        start = table.positions[table.offsets[:-1][exited] + out.cue[exited]]
        full = self.signal_table("hidden").table.full_tokens[exited]
        hidden, tried = self.signal_table("hidden").table, table.labelled
        word = "with the full run's answer" if mode == "disagree" else "with a right answer"
        threshold = outcome.threshold if self.request.signal == "hidden" else np.inf
        failed = outcome.failed[exited]
        never = int((~exited).sum())
        return {
            name: Markup(svg)
            for name, svg in {  # noqa: S704 (nothing in them was written by a model or a user)
                "trade_off": self._trade_off(outcome, evaluation),
                "reliability": figures.reliability(hidden.scores[tried], outcome.target[tried], threshold, word),
                "by_cue": figures.by_cue(out.cue[exited], failed, never),
                "by_share": figures.by_share(start / np.maximum(full, 1), failed),
            }.items()
        }

    def _trade_off(self, outcome: RuleOutcome, evaluation: Mapping[str, Any] | None) -> str:
        mode, table = self.request.mode, self.signal_table("hidden").table
        curves = {name: self._curve(self.signal_table(name)) for name in self.signals}
        fixed = oracle = None
        if table.all_labelled:
            points = fixed_curve(table, mode)
            fixed = np.array([p.failed for p in points]), np.array([p.saved for p in points]) / self.plain
            best = table.outcomes(table.first_where(outcome.target))
            oracle = 1 - float(best.tokens.mean()) / self.plain
        failed, n = count_failures(outcome.out, mode)
        here = (failed / n, 1 - float(outcome.out.tokens.mean()) / self.plain) if n else None
        measured = None
        if evaluation is not None and evaluation["failure"]["n"]:
            failure = evaluation["failure"]
            measured = failure["count"] / failure["n"], parts.saved(evaluation, "tokens")
        return figures.trade_off(
            curves,
            fixed,
            oracle,
            signal=self.request.signal,
            risk=self.request.bound,
            here=here,
            measured=measured,
        )

    def _curve(self, calibrated: SignalTable) -> tuple[Floats64, Floats64]:
        """Failing shares and shares of tokens saved down the grid, from a threshold that nothing exceeds."""
        table = calibrated.table
        loosest = [-np.inf] if table.all_labelled else []
        thresholds = np.concatenate([[np.inf], calibrated.grid.thresholds, loosest])
        failed, n = failures_at(table, self.request.mode, thresholds)
        spared = table.sum_at_exits(thresholds, table.full_tokens[table.run_of] - table.exit_tokens)
        tokens = (table.full_tokens.sum() - spared) / table.runs
        return np.asarray(failed / np.maximum(n, 1)), np.asarray(1 - tokens / self.plain)

    def signal_table(self, name: str) -> SignalTable:
        """A signal's grid, and its table of the promise's runs."""
        whole = self.content.signal_table(name)
        if len(self.rows) == whole.table.runs:
            return whole
        return SignalTable(whole.grid, whole.table.select(self.rows))

    def _threshold(self, name: str, risk: float) -> Threshold:
        calibrated = self.signal_table(name)
        return replace(self.request, risk=risk).threshold(calibrated.table, calibrated.grid)


def _basename(name: str) -> str:
    """The last part of a model's name: a page holds no path of the machine."""
    return str(name).replace("\\", "/").rstrip("/").rpartition("/")[2]


def _rows(content: ProbeFile, domain: str | None) -> Ints:
    if domain is None:
        return np.arange(content.table.runs)
    return np.flatnonzero(content.table.domain == content.domain_index(domain))
