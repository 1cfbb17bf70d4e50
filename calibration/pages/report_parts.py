"""The parts of a report as plain values for its page (report.html.jinja): the rule, the evaluation, and the runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from reasonctl.controller import Cues
from reasonctl.probes import Promise
from reasonctl.probes.files import ProbeFile
from reasonctl.probes.risk import NO_EXIT, GiveUp, Ints, Table, Threshold, count_failures, refutes

from ..evaluation.baselines import EQUAL_COST, ORACLE, fixed_at, fixed_curve
from ..runs.records import RunRecord
from .highlights import Example, Excerpt, Piece, RuleOutcome, excerpt


@dataclass(frozen=True)
class OnCalibration:
    """The rule on the calibration runs."""

    exits: bool
    """Whether it can exit at all."""
    why: str
    """How its threshold was chosen, for people."""
    runs: int
    """Number of runs."""
    cues: float
    """Mean number of cues in a run."""
    failed: int
    """Runs that break the promise."""
    n: int
    """Runs that count for the promise; in `selective` those that exit."""
    exited: int
    """Runs that exit."""
    wrong: int
    """Runs that exit with a wrong answer."""
    saved: float
    """Share of tokens saved, net of trials and exits."""
    tokens: float
    """Mean tokens of a run under the rule."""
    full_tokens: float
    """Mean tokens of a run without a rule."""
    graded: bool
    """Whether there were gold answers."""
    help: int
    """Runs that gain a right answer by exiting."""
    accuracy: float
    """Share of right answers without exits."""
    accuracy_after: float
    """Share of right answers under the rule."""


class BestBaseline(NamedTuple):
    """Two rows of an evaluation's `baselines`."""

    rule: Mapping[str, Any]
    """The evaluated rule."""
    best: Mapping[str, Any]
    """The baseline rule that saves the most."""


@dataclass(frozen=True)
class OnFreshProblems:
    """What an evaluation says of the rule."""

    n: int
    """Number of problems."""
    failed: int
    """Runs that break the promise."""
    of: int
    """Runs that count for the promise."""
    rate: float
    """The failing share of these."""
    upper: float
    """Its one-sided 90 % bound."""
    saved: float
    """Share of tokens saved."""
    faster: float
    """Share of seconds saved."""
    refuted: bool | None
    """Whether the runs contradict the promise. None: they can't, for it is about cues."""
    graded: bool
    """Whether there were gold answers."""
    saves_most: BestBaseline | None
    """The rule next to the best baseline rule. None: none was evaluated."""


@dataclass(frozen=True)
class References:
    """What else could be done on the calibration runs; shares of tokens saved."""

    fixed: float
    """By a fixed cue at the rule's own failing share."""
    fixed_at_risk: float
    """By a fixed cue at the promise's risk."""
    oracle: float
    """By exiting at the first cue with a right answer."""


@dataclass(frozen=True)
class OnDomain:
    """The rule on the calibration runs of one domain."""

    name: str
    """The domain."""
    failed: int
    """Runs that break the promise."""
    n: int
    """Runs that count for the promise."""
    saved: float
    """Share of tokens saved."""


@dataclass(frozen=True)
class Dot:
    """A cue on the strip of a run."""

    name: str
    """The cue."""
    score: str
    """Its score, for people."""
    ok: bool | None
    """Whether an exit there would be right. None: none was tried."""
    left: float
    """Where it begins, in percent of the run without a rule."""
    up: float
    """Its score, in percent of the strip's height."""
    unwritten: bool
    """Whether an exit spares it."""
    exit: bool
    """Whether the rule exits there."""


@dataclass(frozen=True)
class ExampleView:
    """What the page shows of one run."""

    title: str
    """What kind of example it is."""
    why: str
    """How it was picked."""
    failure: bool
    """Whether it shows the rule failing, or missing what it could have saved."""
    cues: list[Dot]
    """The cues of the run."""
    exit_at: int | None
    """Index of the cue at which the rule exits. None: it doesn't."""
    focus: int
    """Index of the cue that the example is about."""
    length: int
    """Tokens of the run without a rule."""
    record: RunRecord | None
    """The collected run, if it is at hand."""
    position: int | None
    """Tokens before the exit."""
    cost: int
    """Tokens of the run under the rule."""
    saved: float
    """Share of tokens saved."""
    failed: bool
    """Whether the exit breaks the promise."""
    exit_right: bool
    """Whether the exit's answer is right; in `disagree`, as the full run's."""
    full_right: bool
    """Whether the full run's answer is right."""
    graded: bool
    """Whether there were gold answers."""
    level: float | None
    """The threshold, in percent of the strip's height. None: it is infinite."""
    pieces: list[Piece]
    """The text around the cue in focus; empty without the record."""
    left_out: tuple[int, int]
    """Characters left out before and after it."""
    exit_answer: str | None
    """The answer of the exit. None: the run has none, or the record isn't at hand."""
    focus_answer: str | None
    """The answer that an exit at the cue in focus would give."""


def rule(outcome: RuleOutcome, threshold: Threshold, lower: GiveUp | None, request: Promise) -> OnCalibration:
    """The rule on the calibration runs."""
    table, out = outcome.table, outcome.out
    failed, n = count_failures(out, request.mode)
    accuracy = float(table.full_right.mean())
    return OnCalibration(
        exits=threshold.value < np.inf,
        why=threshold.why if lower is None else f"{threshold.why}; {lower.why}",
        runs=table.runs,
        cues=table.cues / table.runs,
        failed=failed,
        n=n,
        exited=int(out.exited.sum()),
        wrong=int(out.wrong.sum()),
        saved=outcome.saved_share,
        tokens=float(out.tokens.mean()),
        full_tokens=float(outcome.plain.mean()),
        graded=table.graded,
        help=int(out.help.sum()),
        accuracy=accuracy,
        accuracy_after=float(table.full_right.mean() - out.harm.mean() + out.help.mean()),
    )


def measured(evaluation: Mapping[str, Any], request: Promise) -> OnFreshProblems:
    """What an evaluation says, and whether it contradicts the promise."""
    failure = evaluation["failure"]
    failed, of = int(failure["count"]), int(failure["n"])
    return OnFreshProblems(
        n=int(evaluation["n"]),
        failed=failed,
        of=of,
        rate=failed / of if of else 0.0,
        upper=failure["upper"],
        saved=saved(evaluation, "tokens"),
        faster=saved(evaluation, "seconds"),
        # Per cue, not per run: runs can't contradict what `event` promises.
        refuted=None if request.mode == "event" else refutes(failed, of, request.bound),
        graded=evaluation["harm"] is not None,
        saves_most=best_baseline(evaluation.get("baselines", [])),
    )


def saved(evaluation: Mapping[str, Any], what: str) -> float:
    """The share that the controlled arm saves of the other arm's tokens or seconds."""
    before = float(evaluation["baseline"][what])
    return 1 - float(evaluation["controlled"][what]) / before if before else 0.0


def best_baseline(rows: Sequence[Mapping[str, Any]]) -> BestBaseline | None:
    """The rule, which is the first row, next to the baseline rule that saves the most."""
    own, *rules = [row for row in rows if "harm" in row] or [{}]
    baselines = [row for row in rules if row["name"] not in (ORACLE, EQUAL_COST)]
    return BestBaseline(own, max(baselines, key=lambda row: float(row["saved"]))) if baselines else None


def context(outcome: RuleOutcome, hidden: Table, request: Promise) -> References | None:
    """The fixed cue at the rule's own failing share and at the risk, and the oracle; they run no trials (`hidden`).

    None: exits were tried at some cues only, so that what these rules do isn't known.
    """
    if not hidden.all_labelled:
        return None
    failed, n = count_failures(outcome.out, request.mode)
    full = max(float(outcome.plain.mean()), 1.0)
    oracle = hidden.outcomes(hidden.first_where(outcome.target))
    curve = fixed_curve(hidden, request.mode)
    return References(
        fixed=fixed_at(curve, failed / n if n else 0.0) / full,
        fixed_at_risk=fixed_at(curve, request.risk) / full,
        oracle=1 - float(oracle.tokens.mean()) / full,
    )


def domains(content: ProbeFile, outcome: RuleOutcome, rows: Ints, request: Promise) -> list[OnDomain]:
    """The rule in every domain, where there are several."""
    domain = content.table.domain[rows]
    found = []
    for i, name in enumerate(content.card.domains):
        runs = np.flatnonzero(domain == i)
        if 0 < len(runs) < outcome.table.runs:
            part = outcome.table.select(runs)
            failed, n = count_failures(part.outcomes(part.first_exit(outcome.threshold)), request.mode)
            share = float(outcome.saved[runs].sum() / max(outcome.plain[runs].sum(), 1))
            found.append(OnDomain(name, failed, n, share))
    return found


def example(outcome: RuleOutcome, content: ProbeFile, example: Example, record: RunRecord | None) -> ExampleView:
    """What the page shows of one run. record: the collected run, if it is at hand."""
    table, run = outcome.table, example.run
    exit_at = None if outcome.out.cue[run] == NO_EXIT else int(outcome.out.cue[run])
    length = max(int(outcome.plain[run]), 1)
    low, high = span(table, outcome.threshold)
    at = int(table.offsets[run]) + (exit_at or 0)
    written = Excerpt(0, [], 0)
    if record is not None:
        stays = 0 if exit_at is None or content.card.form == "replace" else _cue_length(record, exit_at)
        written = excerpt(record.text, [cue.offset for cue in record.cues], exit_at, example.focus, stays)
    return ExampleView(
        title=example.title,
        why=example.why,
        failure=example.failure,
        cues=_dots(outcome, content, run, exit_at),
        exit_at=exit_at,
        focus=example.focus,
        length=length,
        record=record,
        position=int(table.positions[at]) if exit_at is not None else None,
        cost=int(outcome.out.tokens[run]),
        saved=float(outcome.saved[run]) / length,
        failed=bool(outcome.failed[run]),
        exit_right=exit_at is not None and bool(outcome.target[at]),
        full_right=bool(table.full_right[run]),
        graded=table.graded,
        level=height(outcome.threshold, low, high) if np.isfinite(outcome.threshold) else None,
        pieces=written.pieces,
        left_out=(written.before, written.after),
        exit_answer=None if record is None or exit_at is None else record.cues[exit_at].answer,
        focus_answer=None if record is None else record.cues[example.focus].answer,
    )


LONGEST = 100
"""Characters in which a cue's text lies."""


def _cue_length(record: RunRecord, at: int) -> int:
    """Characters of a cue's text, from the start of its first token; 0 for `every(k)`, which has no text."""
    cue = record.cues[at]
    found = Cues((cue.name,)).pattern.search(record.text, cue.offset, cue.offset + LONGEST)
    return found.end() - cue.offset if found else 0


def _dots(outcome: RuleOutcome, content: ProbeFile, run: int, exit_at: int | None) -> list[Dot]:
    """The cues of a run, as dots on its strip."""
    table = outcome.table
    part = slice(int(table.offsets[run]), int(table.offsets[run + 1]))
    length = max(int(outcome.plain[run]), 1)
    low, high = span(table, outcome.threshold)
    shown = ".3f" if (low, high) == (0.0, 1.0) else ".4g"
    names = [content.card.cues[i] for i in table.cue_name[part]]
    known = [bool(ok) if tried else None for ok, tried in zip(outcome.target[part], table.labelled[part], strict=True)]
    rows = zip(names, table.scores[part], known, table.positions[part], strict=True)
    return [
        Dot(
            name=name,
            score=f"{score:{shown}}",
            ok=ok,
            left=100 * int(position) / length,
            up=height(float(score), low, high),
            unwritten=exit_at is not None and i > exit_at,
            exit=i == exit_at,
        )
        for i, (name, score, ok, position) in enumerate(rows)
    ]


def span(table: Table, threshold: float) -> tuple[float, float]:
    """What an example's scores are drawn between: 0..1 for probabilities, the range of the table's for others."""
    values = [*table.scores.tolist(), *([threshold] if np.isfinite(threshold) else [])]
    low, high = min(values, default=0.0), max(values, default=1.0)
    if low >= 0.0 and high <= 1.0:
        return 0.0, 1.0
    return (low, high) if high > low else (low, low + 1.0)


def height(score: float, low: float, high: float) -> float:
    """In percent of the strip, with room for a dot at both ends."""
    return 8 + 84 * (score - low) / (high - low)
