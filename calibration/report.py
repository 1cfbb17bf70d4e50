"""`P.html`: what a probe file promises, what was measured, and the runs behind it, for someone who has a minute.

Owns the numbers and the words; every number comes from the files given. figures.py draws, examples.py picks the runs,
report.html.jinja is the page. The same files give the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from ..controller import ControllerError
from ..probes.file import Judged, ProbeFile, check_target, load_probe
from ..probes.risk import (
    Mode,
    Threshold,
    check_request,
    choose_threshold,
    count_failures,
    failing_cues,
    failures_at,
    refutes,
)
from ..probes.signals import SIGNALS
from ..probes.table import NO_EXIT, Table
from . import figures
from .baselines import fixed_at, fixed_curve
from .calibrate import runs_path, split
from .cue_sets import with_cues
from .examples import Example, Judgement, Piece, pick, pieces
from .inspect import facts
from .options import Options
from .runs import RunFile
from .show import Show, percent

RISKS = (0.01, 0.02, 0.05, 0.1, 0.2)
NARROW = "\u202f"
"""A space that doesn't break: a number stays with its unit."""

_FAIL = {
    "harm": "lose a right answer by stopping early",
    "wrong": "stop early with a wrong answer",
    "selective": "give a wrong answer",
    "disagree": "stop early with another answer than the full run's",
    "event": "stop early with a wrong answer",
}


@dataclass(frozen=True)
class Request:
    """The promise that a report is about."""

    mode: Mode
    risk: float
    confidence: float | None
    signal: str
    domain: str | None = None

    @classmethod
    def of(cls, options: Options, evaluation: Mapping[str, Any] | None) -> Request:
        """The options' promise; with an evaluation its mode, risk and confidence."""
        asked = vars(options) if evaluation is None else evaluation
        return cls(asked["mode"], asked["risk"], asked["confidence"], options.signal, options.domain)


def run(probe: str, options: Options, *, evaluation: str | None, out: str | None) -> None:
    """`ctl report`: write the page beside the probe file, or where `out` says."""
    show = Show(as_json=options.json)
    target = Path(out) if out is not None else report_path(Path(probe))
    check_target(target, options.force)
    content = load_probe(probe)
    measured = None if evaluation is None else read_evaluation(Path(evaluation))
    file = RunFile(runs_path(Path(probe)), {})
    records = file.read() if file.path.is_file() else None
    write_report(target, content, Request.of(options, measured), records, measured, force=options.force)
    show.say(f"written: {target}")
    show.result({"out": str(target), "runs": records is not None, "evaluation": measured is not None})


def report_path(probe: Path) -> Path:
    """Beside the probe file: P.safetensors has P.html."""
    return probe.with_suffix(".html")


def read_evaluation(path: Path) -> dict[str, Any]:
    """What `ctl eval --json` printed; ControllerError if it is anything else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8").rstrip().rpartition("\n")[2])
        check_request(found["mode"], float(found["risk"]), found["confidence"])
        for arm in ("baseline", "controlled"):
            float(found[arm]["accuracy"]), float(found[arm]["tokens"]), float(found[arm]["seconds"])
        int(found["n"]), int(found["harm"]["count"]), found["guarantee"]["holds"]
    except OSError as error:
        raise ControllerError(f"can't read {str(path)!r}: {error.strerror}; give what ctl eval --json wrote") from None
    except (ValueError, KeyError, TypeError):
        raise ControllerError(
            f"{str(path)!r} is no result of ctl eval; make it: ctl eval ... --json > E.json"
        ) from None
    return dict(found)


def write_report(
    path: Path, content: ProbeFile, request: Request, records: Sequence[dict[str, Any]] | None,
    evaluation: Mapping[str, Any] | None, *, force: bool,
) -> None:  # fmt: skip
    """Write the page. records: the collected runs, fitting half and calibration half, if they are at hand."""
    check_target(path, force)
    page = render(content, request, records, evaluation)
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise ControllerError(f"can't write {str(path)!r}: {error.strerror}; give another --out") from None


def render(
    content: ProbeFile, request: Request, records: Sequence[dict[str, Any]] | None,
    evaluation: Mapping[str, Any] | None,
) -> str:  # fmt: skip
    """The page. Raises ControllerError if the records aren't those behind the probe file."""
    rows = _rows(content, request.domain)
    if not rows:
        raise ControllerError("the probe file holds no calibration run to report on; calibrate with more -n")
    told = None if records is None else calibration_records(content, records)
    subject = _Subject(content, request, rows)
    judged = subject.judgement()
    picked, absent = pick(judged)
    examples = [_example(judged, content, one, None if told is None else told[rows[one.run]]) for one in picked]
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(percent=_percent, share=_share, number=_number)
    template = environment.from_string(Path(__file__).with_name("report.html.jinja").read_text(encoding="utf-8"))
    return template.render(
        card=content.card, facts=facts(content.card), auc=content.card.report.get("auc"),
        request=request, promise=_promise(request), level=_level(request), fail=_FAIL[request.mode],
        rule=_rule(judged, subject.threshold, request), levels=subject.levels(),
        evaluation=evaluation, measured=None if evaluation is None else _measured(evaluation, request),
        signals=figures.legend(subject.signals), figures=subject.drawn(judged, evaluation),
        context=_context(judged, subject.judged("hidden").table, request),
        domains=_domains(content, judged, rows, request), examples=examples, absent=absent, with_runs=told is not None,
    )  # fmt: skip


def calibration_records(content: ProbeFile, records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records behind the calibration table, in its order and with its cues."""
    part = split(len(records), content.card.seeds["seed"])[1]
    found = [records[i] for i in part]
    if any(record["cues"] for record in found):
        found = with_cues(found, content.card.cues)
    same = [record["problem"] for record in found] == content.table.problem.tolist()
    positions = [cue["position"] for record in found for cue in record["cues"]]
    if not same or positions != content.table.positions.tolist():
        raise ControllerError(
            "the collected runs beside the probe file aren't the ones that it was made from; move them away, or make "
            "the probe again with ctl calibrate"
        )
    return found


@dataclass(frozen=True, eq=False)
class _Subject:
    """A probe file under a request. rows: the calibration runs that the promise is about."""

    content: ProbeFile
    request: Request
    rows: list[int]

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

    def judgement(self) -> Judgement:
        table, mode = self.judged(self.request.signal).table, self.request.mode
        value = self.threshold.value
        target = np.asarray(table.same if mode == "disagree" else table.right)
        out, plain = table.outcomes(table.first_exit(value)), self.judged("hidden").table.full_tokens
        return Judgement(table, value, out, target, failing_cues(table, mode), plain)

    def levels(self) -> list[dict[str, Any]]:
        """Every signal at every risk: what it saves on the calibration runs, or how many more runs it needs."""
        risks = sorted({*RISKS, self.request.risk})
        rows = []
        for name in self.signals:
            cells = []
            for risk in risks:
                limit, table = self._threshold(name, risk), self.judged(name).table
                out = table.outcomes(table.first_exit(limit.value))
                failed, n = count_failures(out, self.request.mode)
                cells.append({
                    "risk": risk, "saved": 1 - float(out.tokens.mean()) / self.plain, "failed": failed, "n": n,
                    "more": limit.more_runs, "exits": limit.value < np.inf, "here": risk == self.request.risk,
                })  # fmt: skip
            rows.append({"signal": name, "cells": cells, "chosen": name == self.request.signal})
        return rows

    def drawn(self, judged: Judgement, evaluation: Mapping[str, Any] | None) -> dict[str, Markup]:
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
        return {name: Markup(svg) for name, svg in {  # noqa: S704 (nothing in them was written by a model or a user)
            "trade_off": self._trade_off(judged, evaluation),
            "reliability": figures.reliability(hidden.scores, judged.target, threshold, word),
            "by_cue": figures.by_cue(out.cue[exited], failed, never),
            "by_share": figures.by_share(start / np.maximum(full, 1), failed),
        }.items()}  # fmt: skip

    def _trade_off(self, judged: Judgement, evaluation: Mapping[str, Any] | None) -> str:
        mode, table = self.request.mode, self.judged("hidden").table
        curves = {name: self._curve(self.judged(name)) for name in self.signals}
        points = fixed_curve(table, mode)
        fixed = np.array([p.failed for p in points]), np.array([p.saved for p in points]) / self.plain
        best = table.outcomes(table.first_where(judged.target))
        failed, n = count_failures(judged.out, mode)
        here = (failed / n, 1 - float(judged.out.tokens.mean()) / self.plain) if n else None
        measured = None
        if evaluation is not None and mode == "harm":
            measured = evaluation["harm"]["count"] / evaluation["n"], _saved(evaluation, "tokens")
        return figures.trade_off(
            curves, fixed, 1 - float(best.tokens.mean()) / self.plain, signal=self.request.signal,
            risk=self.request.risk, here=here, measured=measured,
        )  # fmt: skip

    def _curve(self, judged: Judged) -> tuple[Any, Any]:
        """(failing share, share of tokens saved) down the grid, from a threshold that nothing exceeds."""
        table = judged.table
        thresholds = np.concatenate([[np.inf], judged.grid.thresholds, [-np.inf]])
        failed, n = failures_at(table, self.request.mode, thresholds)
        spared = table.sum_at_exits(thresholds, table.full_tokens[table.run_of] - table.exit_tokens)
        tokens = (table.full_tokens.sum() - spared) / table.runs
        return failed / np.maximum(n, 1), 1 - tokens / self.plain

    def judged(self, name: str) -> Judged:
        judged = self.content.judged(name)
        return judged if len(self.rows) == judged.table.runs else Judged(judged.grid, judged.table.select(self.rows))

    def _threshold(self, name: str, risk: float) -> Threshold:
        judged, asked = self.judged(name), self.request
        return choose_threshold(judged.table, judged.grid, asked.mode, risk, asked.confidence)


def _rows(content: ProbeFile, domain: str | None) -> list[int]:
    if domain is None:
        return list(range(content.table.runs))
    if domain not in content.card.domains:
        known = ", ".join(map(repr, content.card.domains))
        raise ControllerError(f"domain is {domain!r}; this probe was calibrated on {known}")
    return [int(i) for i in np.flatnonzero(content.table.domain == content.card.domains.index(domain))]


def _promise(request: Request) -> str:
    """The promise as one sentence."""
    share = _share(request.risk)
    if request.mode == "event":
        return f"Of all cues with a wrong answer, at most {share} are let through. Nothing is promised for a run."
    of = "Of the runs that stop early, at most" if request.mode == "selective" else "At most"
    runs = "" if request.mode == "selective" else " of runs"
    return f"{of} {share}{runs} {_FAIL[request.mode]}."


def _level(request: Request) -> str:
    """What the confidence means."""
    if request.confidence is None or request.mode == "event":
        return "On average over calibrations: this one may lie a little above or below."
    return (
        f"With confidence {_share(request.confidence)}: of all calibrations made this way, at least "
        f"{_share(request.confidence)} keep what they promise."
    )


def _rule(judged: Judgement, threshold: Threshold, request: Request) -> dict[str, Any]:
    """The rule on the calibration runs."""
    table, out = judged.table, judged.out
    failed, n = count_failures(out, request.mode)
    exits = threshold.value < np.inf
    return {
        "exits": exits, "threshold": threshold.value if exits else None, "why": threshold.why, "runs": table.runs,
        "failed": failed, "n": n, "exited": int(out.exited.sum()), "wrong": int(out.wrong.sum()),
        "saved": judged.saved_share, "tokens": float(out.tokens.mean()), "full_tokens": float(judged.plain.mean()),
        "graded": table.graded, "help": int(out.help.sum()), "accuracy": float(table.full_right.mean()),
        "accuracy_after": float(table.full_right.mean() - out.harm.mean() + out.help.mean()),
    }  # fmt: skip


def _measured(evaluation: Mapping[str, Any], request: Request) -> dict[str, Any]:
    """What an evaluation says, and whether it contradicts the promise."""
    harm, n = int(evaluation["harm"]["count"]), int(evaluation["n"])
    return {
        "n": n, "harm": harm, "rate": harm / n, "upper": evaluation["harm"]["upper"],
        "saved": _saved(evaluation, "tokens"), "faster": _saved(evaluation, "seconds"),
        "refuted": refutes(harm, n, request.risk) if request.mode == "harm" else None,
        "saves_most": _verdict(evaluation.get("baselines", [])),
    }  # fmt: skip


def _saved(evaluation: Mapping[str, Any], what: str) -> float:
    before = float(evaluation["baseline"][what])
    return 1 - float(evaluation["controlled"][what]) / before if before else 0.0


def _verdict(baselines: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The probe beside the cheap rule that saves the most."""
    rules = {row["name"]: row for row in baselines if "harm" in row}
    cheap = [row for name, row in rules.items() if name not in ("probe", "oracle")]
    if "probe" not in rules or not cheap:
        return None
    return {"probe": rules["probe"], "best": max(cheap, key=lambda row: float(row["saved"]))}


def _context(judged: Judgement, hidden: Table, request: Request) -> dict[str, float]:
    """The fixed cue at the rule's own failing share and at the risk, and the oracle; they run no trials (`hidden`)."""
    failed, n = count_failures(judged.out, request.mode)
    full = max(float(judged.plain.mean()), 1.0)
    oracle = hidden.outcomes(hidden.first_where(judged.target))
    curve = fixed_curve(hidden, request.mode)
    return {
        "fixed": fixed_at(curve, failed / n if n else 0.0) / full,
        "fixed_at_risk": fixed_at(curve, request.risk) / full,
        "oracle": 1 - float(oracle.tokens.mean()) / full,
        "cues": hidden.cues / hidden.runs,
    }


def _domains(content: ProbeFile, judged: Judgement, rows: Sequence[int], request: Request) -> list[dict[str, Any]]:
    """The rule in every domain, where there are several."""
    domain = content.table.domain[list(rows)]
    found = []
    for i, name in enumerate(content.card.domains):
        runs = np.flatnonzero(domain == i)
        if 0 < len(runs) < judged.table.runs:
            part = judged.table.select(runs)
            failed, n = count_failures(part.outcomes(part.first_exit(judged.threshold)), request.mode)
            saved = float(judged.saved[runs].sum() / max(judged.plain[runs].sum(), 1))
            found.append({"name": name, "failed": failed, "n": n, "saved": saved})
    return found


def _example(
    judged: Judgement, content: ProbeFile, example: Example, record: Mapping[str, Any] | None
) -> dict[str, Any]:
    """What the page shows of one run."""
    table, run = judged.table, example.run
    part = slice(int(table.offsets[run]), int(table.offsets[run + 1]))
    exit_at = None if judged.out.cue[run] == NO_EXIT else int(judged.out.cue[run])
    length = max(int(judged.plain[run]), 1)
    low, high = _span(table, judged.threshold)
    shown = ".3f" if (low, high) == (0.0, 1.0) else ".4g"
    names = [content.card.cues[i] for i in table.cue_name[part]]
    cues = [
        {
            "name": name, "score": f"{score:{shown}}", "ok": bool(ok), "left": 100 * int(position) / length,
            "up": _height(float(score), low, high), "unwritten": exit_at is not None and i > exit_at,
            "exit": i == exit_at,
        }
        for i, (name, score, ok, position) in enumerate(
            zip(names, table.scores[part], judged.target[part], table.positions[part], strict=True)
        )
    ]  # fmt: skip
    before, after = 0, 0
    text: list[Piece] = []
    if record is not None and "text" in record:
        offsets = [cue["offset"] for cue in record["cues"]]
        before, text, after = pieces(record["text"], offsets, exit_at, example.focus)
    at = part.start + (exit_at or 0)
    return {
        "title": example.title, "why": example.why, "failure": example.failure, "cues": cues, "exit_at": exit_at,
        "focus": example.focus, "length": length, "pieces": text, "left_out": (before, after), "record": record,
        "position": int(table.positions[at]) if exit_at is not None else None,
        "cost": int(judged.out.tokens[run]), "saved": float(judged.saved[run]) / length,
        "failed": bool(judged.failed[run]), "exit_right": exit_at is not None and bool(judged.target[at]),
        "full_right": bool(table.full_right[run]), "graded": table.graded,
        "exit_answer": record["cues"][exit_at]["answer"] if record is not None and exit_at is not None else None,
        "focus_answer": record["cues"][example.focus]["answer"] if record is not None else None,
        "level": _height(judged.threshold, low, high) if judged.threshold < np.inf else None,
    }  # fmt: skip


def _span(table: Table, threshold: float) -> tuple[float, float]:
    """What an example's scores are drawn between: 0..1 for probabilities, the range of the table's for others."""
    values = [*table.scores.tolist(), *([threshold] if np.isfinite(threshold) else [])]
    low, high = min(values, default=0.0), max(values, default=1.0)
    if low >= 0.0 and high <= 1.0:
        return 0.0, 1.0
    return (low, high) if high > low else (low, low + 1.0)


def _height(score: float, low: float, high: float) -> float:
    """In percent of the strip, with room for a dot at both ends."""
    return 8 + 84 * (score - low) / (high - low)


def _percent(value: float) -> str:
    return percent(value).replace(" ", NARROW).replace("-", "\u2212")


def _share(value: float) -> str:
    """A share in whole or tenth percent: 5 %, 0.6 %."""
    return f"{round(100 * value, 1):g}{NARROW}%"


def _number(value: float) -> str:
    return f"{value:,.0f}"
