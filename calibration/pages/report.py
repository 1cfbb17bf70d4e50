"""`P.html`: what a probe file promises, what was measured, and the runs behind it, for someone who has a minute.

Owns the numbers and the words; every number comes from the files given. figures.py draws, examples.py picks the runs,
report.html.jinja is the page. The same files give the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from reasonctl.controller import ControllerError
from reasonctl.probes.exit import make_exit
from reasonctl.probes.files.probe_file import ProbeFile, SignalTable
from reasonctl.probes.files.sealed import check_target, write_whole
from reasonctl.probes.promise import Promise
from reasonctl.probes.risk.give_up import GiveUp
from reasonctl.probes.risk.table import Ints
from reasonctl.probes.risk.threshold import Threshold, count_failures, failing_cues, failures_at
from reasonctl.probes.signals.signals import SIGNALS

from ..evaluation.baselines import fixed_curve
from ..fitting.saved_runs import halves
from ..fitting.tables import outcomes_of
from ..runs.records import RunRecord
from ..runs.splits import runs_path
from . import figures
from . import report_parts as parts
from .highlights import RuleOutcome, pick
from .wording import FAIL, FAILED, RISKS, facts, level, number, percentage, promise, share_of


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
    """The page. Raises ControllerError if the records aren't those behind the probe file."""
    rows = _rows(content, request.domain)
    if not len(rows):
        raise ControllerError("the probe file holds no calibration run to report on; calibrate with more -n")
    told = None if records is None else halves(content, records).calibration
    subject = _Subject(content, request, rows)
    judged = subject.judgement()
    picked, absent = pick(judged)
    examples = [parts.example(judged, content, one, None if told is None else told[rows[one.run]]) for one in picked]
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(percent=percentage, share=share_of, number=number, basename=_basename)
    template = environment.from_string(Path(__file__).with_name("report.html.jinja").read_text(encoding="utf-8"))
    return template.render(
        card=content.card,
        facts=facts(content.card),
        auc=content.card.report.get("auc"),
        request=request,
        promise=promise(request),
        level=level(request),
        fail=FAIL[request.mode],
        failed=FAILED[request.mode],
        rule=parts.rule(judged, subject.threshold, subject.lower, request),
        levels=subject.levels(),
        evaluation=evaluation,
        measured=None if evaluation is None else parts.measured(evaluation, request),
        signals=figures.legend(subject.signals),
        figures=subject.drawn(judged, evaluation),
        context=parts.context(judged, subject.judged("hidden").table, request),
        domains=parts.domains(content, judged, rows, request),
        examples=examples,
        absent=absent,
        with_runs=told is not None,
    )


@dataclass(frozen=True, eq=False)
class _Subject:
    """A probe file under a request. rows: the calibration runs that the promise is about."""

    content: ProbeFile
    request: Promise
    rows: Ints

    @property
    def signals(self) -> list[str]:
        """The one asked for first."""
        known = [name for name in SIGNALS if name == "hidden" or name in self.content.others]
        return sorted(known, key=lambda name: name != self.request.signal)

    @property
    def plain(self) -> float:
        """Mean tokens of a run that nothing looks at."""
        return float(self.judged("hidden").table.full_tokens.mean())

    @property
    def threshold(self) -> Threshold:
        return self._threshold(self.request.signal, self.request.risk)

    @cached_property
    def lower(self) -> GiveUp | None:
        return None if self.request.give_up is None else make_exit(self.content, self.request).lower

    def judgement(self) -> RuleOutcome:
        table, mode = self.judged(self.request.signal).table, self.request.mode
        value = self.threshold.value
        target = np.asarray(table.same if mode == "disagree" else table.right)
        plain = self.judged("hidden").table
        out = outcomes_of(table, plain, value, self.lower.curve if self.lower else None)
        return RuleOutcome(table, value, out, target, failing_cues(table, mode), plain.full_tokens)

    def levels(self) -> list[dict[str, Any]]:
        """Every signal at every risk: what it saves on the calibration runs, or how many more runs it needs."""
        risks = sorted({*RISKS, self.request.risk})
        rows = []
        for name in self.signals:
            cells = []
            for risk in risks:
                limit, table = self._threshold(name, risk), self.judged(name).table
                out = outcomes_of(table, self.judged("hidden").table, limit.value)
                failed, n = count_failures(out, self.request.mode)
                cells.append(
                    {
                        "risk": risk,
                        "saved": 1 - float(out.tokens.mean()) / self.plain,
                        "failed": failed,
                        "n": n,
                        "more": limit.more_runs,
                        "exits": limit.value < np.inf,
                        "here": risk == self.request.risk,
                    }
                )
            rows.append({"signal": name, "cells": cells, "chosen": name == self.request.signal})
        return rows

    def drawn(self, judged: RuleOutcome, evaluation: Mapping[str, Any] | None) -> dict[str, Markup]:
        """The figures, safe to inline: they hold numbers and fixed words only."""
        table, out, mode = judged.table, judged.out, self.request.mode
        exited = out.exited
        start = table.positions[table.offsets[:-1][exited] + out.cue[exited]]
        full = self.judged("hidden").table.full_tokens[exited]
        hidden = self.judged("hidden").table
        word = "with the full run's answer" if mode == "disagree" else "with a right answer"
        threshold = judged.threshold if self.request.signal == "hidden" else np.inf
        failed = judged.failed[exited]
        never = int((~exited).sum())
        return {
            name: Markup(svg)
            for name, svg in {  # noqa: S704 (nothing in them was written by a model or a user)
                "trade_off": self._trade_off(judged, evaluation),
                "reliability": figures.reliability(hidden.scores, judged.target, threshold, word),
                "by_cue": figures.by_cue(out.cue[exited], failed, never),
                "by_share": figures.by_share(start / np.maximum(full, 1), failed),
            }.items()
        }

    def _trade_off(self, judged: RuleOutcome, evaluation: Mapping[str, Any] | None) -> str:
        mode, table = self.request.mode, self.judged("hidden").table
        curves = {name: self._curve(self.judged(name)) for name in self.signals}
        points = fixed_curve(table, mode)
        fixed = np.array([p.failed for p in points]), np.array([p.saved for p in points]) / self.plain
        best = table.outcomes(table.first_where(judged.target))
        failed, n = count_failures(judged.out, mode)
        here = (failed / n, 1 - float(judged.out.tokens.mean()) / self.plain) if n else None
        measured = None
        if evaluation is not None and evaluation["failure"]["n"]:
            failure = evaluation["failure"]
            measured = failure["count"] / failure["n"], parts.saved(evaluation, "tokens")
        return figures.trade_off(
            curves,
            fixed,
            1 - float(best.tokens.mean()) / self.plain,
            signal=self.request.signal,
            risk=self.request.bound,
            here=here,
            measured=measured,
        )

    def _curve(self, judged: SignalTable) -> tuple[Any, Any]:
        """(failing share, share of tokens saved) down the grid, from a threshold that nothing exceeds."""
        table = judged.table
        thresholds = np.concatenate([[np.inf], judged.grid.thresholds, [-np.inf]])
        failed, n = failures_at(table, self.request.mode, thresholds)
        spared = table.sum_at_exits(thresholds, table.full_tokens[table.run_of] - table.exit_tokens)
        tokens = (table.full_tokens.sum() - spared) / table.runs
        return failed / np.maximum(n, 1), 1 - tokens / self.plain

    def judged(self, name: str) -> SignalTable:
        judged = self.content.signal_table(name)
        return (
            judged if len(self.rows) == judged.table.runs else SignalTable(judged.grid, judged.table.select(self.rows))
        )

    def _threshold(self, name: str, risk: float) -> Threshold:
        judged = self.judged(name)
        return replace(self.request, risk=risk).threshold(judged.table, judged.grid)


def _basename(name: str) -> str:
    """The last part of a model's name: a page holds no path of the machine."""
    return str(name).replace("\\", "/").rstrip("/").rpartition("/")[2]


def _rows(content: ProbeFile, domain: str | None) -> Ints:
    if domain is None:
        return np.arange(content.table.runs)
    return np.flatnonzero(content.table.domain == content.domain_index(domain))
