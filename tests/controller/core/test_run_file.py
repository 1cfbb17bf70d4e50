"""Files of runs: written whole or not at all, and read as hostile input."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from reasonctl.controller import ControllerError, Decision
from reasonctl.controller.core import SavedRun, append_runs, read_runs
from support.saved_runs import saved_run


def test_runs_come_back_as_they_were(tmp_path: Path) -> None:
    path, runs = tmp_path / "a.jsonl", [saved_run(30, seed=i, hostile=i == 1) for i in range(3)]
    append_runs(path, runs[:1])
    append_runs(path, runs[1:])
    assert read_runs(path) == runs


def test_without_text_nothing_says_what_was_written(tmp_path: Path) -> None:
    path, run = tmp_path / "a.jsonl", saved_run(30, text=False)
    append_runs(path, [run])
    found = json.loads(path.read_text())
    assert "tokens" not in found and found["pieces"] is None and found["question"] is None
    [read] = read_runs(path)
    assert read.trace.tokens == [] and read.length == 30 and read.trace.sources == run.trace.sources


@pytest.mark.parametrize("threshold", [math.inf, -math.inf])
def test_infinite_thresholds_and_missing_scores_come_back(tmp_path: Path, threshold: float) -> None:
    run = saved_run()
    run.trace.decisions = [Decision(False, "wait", 0, 3, math.nan, threshold)]
    append_runs(tmp_path / "a.jsonl", [run])
    [decision] = read_runs(tmp_path / "a.jsonl")[0].trace.decisions
    assert math.isnan(decision.score) and decision.threshold == threshold


@pytest.mark.parametrize("left", [1, 20, 500])
def test_what_a_killed_writer_left_is_cut_off(tmp_path: Path, left: int) -> None:
    path, runs = tmp_path / "a.jsonl", [saved_run(30, seed=i) for i in range(2)]
    append_runs(path, runs[:1])
    torn = path.read_bytes() + runs[1].line()[:left]
    path.write_bytes(torn)
    assert read_runs(path) == runs[:1]
    append_runs(path, runs[1:])
    assert read_runs(path) == runs


@pytest.mark.parametrize("content", [b"my notes", b'{"prompt_tokens": 3}\n', b"{"])
def test_another_file_stays_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    if content == b"{":  # may be the beginning of a torn first line
        append_runs(path, [saved_run()])
        return
    with pytest.raises(ControllerError, match="no file of runs"):
        append_runs(path, [saved_run()])
    assert path.read_bytes() == content


WRONG = {
    "format": "reasonctl-run/9",
    "length": 1 << 40,
    "tokens": [1, 2],
    "sources": "mmx",
    "entropies": [1.0],
    "temperatures": ["a"] * 40,
    "pieces": ["a"],
    "decisions": [{"exit": 1}],
    "spans": [{"start": 5, "end": 2, "closed_by": None, "forced": 0}],
    "budget_per": "week",
    "finish_reason": "bored",
    "drift": {"runs": 1, "evidence": 1.0, "alarm": False, "level": 0.0},
    "overrides": {"risk": [1]},
    "cost": -1,
    "question": 7,
    "right": "yes",
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_field_is_named_with_its_line(tmp_path: Path, name: str) -> None:
    path, good = tmp_path / "a.jsonl", json.loads(saved_run(40).line())
    path.write_text(json.dumps(good) + "\n" + json.dumps(good | {name: WRONG[name]}) + "\n")
    with pytest.raises(ControllerError, match="line 2"):
        read_runs(path)
    del good[name]
    if name not in ("tokens", "finish_reason", "drift", "pieces", "question", "right"):
        path.write_text(json.dumps(good) + "\n")
        with pytest.raises(ControllerError, match=name):
            read_runs(path)


def test_an_empty_or_missing_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").touch()
    for name in ("a.jsonl", "none.jsonl"):
        with pytest.raises(ControllerError, match="no (run|file)"):
            read_runs(tmp_path / name)


def test_a_file_that_cant_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ControllerError, match="can't be written"):
        append_runs(tmp_path / "no" / "a.jsonl", [SavedRun.of(saved_run().trace)])
