"""Files that a report is drawn from."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser

import numpy as np

from reasonctl.calibration.pages.highlights import RuleOutcome
from reasonctl.calibration.pages.wording import NARROW
from reasonctl.calibration.runs.records import RunRecord
from reasonctl.calibration.runs.splits import split
from reasonctl.probes.files.probe_file import ProbeFile, SignalTable
from reasonctl.probes.promise import Promise
from reasonctl.probes.risk.table import Table
from reasonctl.probes.risk.threshold import Grid, failing_cues
from support import simulated_runs as laws
from support.probe_files import card, content
from support.run_records import cue, run

HARM = Promise()
TRIAL = 8
"""Tokens that the signal `entropy` pays for at every cue here."""


def probe_file(table: Table | None = None, runs: int = 120, **changes: object) -> ProbeFile:
    """A probe of the simulated law, with a second signal that is no better and pays for trials."""
    table = laws.simulate(runs, seed=1) if table is None else table
    costs = TRIAL * (table.cue_index + 1)
    paid = replace(
        table,
        scores=table.scores**3,
        exit_tokens=table.exit_tokens + costs,
        full_tokens=table.full_tokens + TRIAL * np.diff(table.offsets),
    )
    probe = content().probe
    others = {"entropy": SignalTable(Grid.of(paid, 100), paid)}
    described = card(
        **{"seeds": {"seed": 0}, "runs": {"fit": table.runs, "calibrate": table.runs}, "max_cues": 100, **changes}
    )
    return ProbeFile(probe, Grid.of(table, 100), table, described, others)


def records_of(file: ProbeFile, evil: str = "") -> list[RunRecord]:
    """Collected runs that fit the table, in the order of the job; the fitting half holds nothing."""
    table, names = file.table, file.card.cues
    records = [run(run=i, problem=10**9) for i in range(2 * table.runs)]
    for i, number in enumerate(split(len(records), 0)[1]):
        part = range(int(table.offsets[i]), int(table.offsets[i + 1]))
        cues = []
        for c in part:
            position = int(table.positions[c])
            cues.append(
                cue(name=names[table.cue_name[c]], position=position, offset=position, answer=f"tried {c}{evil}")
            )
        records[number] = run(
            run=number,
            problem=int(table.problem[i]),
            question=f"question {i}{evil}",
            gold=f"gold {i}{evil}",
            answer=f"answer {i}{evil}",
            text="thinking, " * len(part) + evil,
            cues=tuple(cues),
        )
    return records


def evaluation(harm: int = 3, **changes: object) -> dict:
    """What `ctl eval --json` gives."""
    arms = {"baseline": (0.93, 200.0, 0.4), "controlled": (0.94, 80.0, 0.2)}
    found = {
        "n": 200,
        "seed": 7,
        "model": "some model",
        "backend": "toy",
        "tasks": "tiny",
        "mode": "harm",
        "risk": 0.05,
        "confidence": 0.9,
        "signal": "hidden",
        "domain": None,
        "give_up": None,
        "probe": "ab" * 32,
        "exit_rate": 0.8,
        "harm": {"count": harm, "n": 200, "rate": harm / 200, "upper": 0.033},
        "failure": {"mode": "harm", "count": harm, "n": 200, "rate": harm / 200, "upper": 0.033},
        "help": {"count": 5, "rate": 0.025},
        "exits_at": [1],
        "drafted": 0,
        "guarantee": {"holds": True, "mode": "harm", "risk": 0.05, "confidence": 0.9, "why_not": []},
        **{arm: dict(zip(("accuracy", "tokens", "seconds"), values, strict=True)) for arm, values in arms.items()},
        "baselines": [
            {"name": "probe", "saved": 0.6, "failed": 0.015, "harm": 0.015, "exit_rate": 0.8, "accuracy": 0.94},
            {"name": "cue index", "saved": 0.71, "failed": 0.02, "harm": 0.02, "exit_rate": 0.5, "accuracy": 0.9},
            {"name": "oracle", "saved": 0.65, "failed": 0.0, "harm": 0.0, "exit_rate": 0.9, "accuracy": 0.97},
            {"name": "fixed cue at the probe's failure rate", "saved": 0.2, "curve": []},
        ],
    }
    return {**found, **changes}


class Page(HTMLParser):
    """Tags, attributes and text of a page; raises where tags aren't closed in order."""

    VOID = ("meta", "link", "br", "hr", "input", "img", "path", "rect", "circle", "use")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split()).replace(NARROW, " ")


def outcome_of(rows: list[tuple[list[float], list[bool], bool]], threshold: float = 0.5) -> RuleOutcome:
    """Runs given as (scores, right, full_right); cue k sits at token 10 k, exits cost 2 more, a run 10 per cue + 10."""
    lengths = [len(scores) for scores, _, _ in rows]
    positions = np.concatenate([10 * np.arange(k) for k in lengths])
    right, full = np.concatenate([r for _, r, _ in rows]).astype(bool), np.array([f for _, _, f in rows])
    table = Table(
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        positions=positions,
        scores=np.concatenate([s for s, _, _ in rows]),
        right=right,
        same=right == np.repeat(full, lengths),
        exit_tokens=positions + 2,
        cue_name=np.zeros(len(positions)),
        full_right=full,
        full_tokens=10 * np.array(lengths) + 10,
        problem=np.arange(len(rows)),
    )
    out = table.outcomes(table.first_exit(threshold))
    return RuleOutcome(table, threshold, out, table.right, failing_cues(table, "harm"), table.full_tokens)
