"""The examples to start with: at most 60 lines each, and each does what its first line says."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from support.example_scripts import EXAMPLES

SAYS = {
    "attach_llama": ["forwards;", "The answer is"],
    "attach_transformers": ["forwards,", "drafted"],
    "batch": ["52 a+3 b-6 c+8: The answer is", "exited at cue"],
    "calibrate_own_tasks": ["exit above", "The answer is 57.", "exited at cue"],
    "compare_policies": ["greedy ", "mean temperature 0.00", "mean temperature 0.60", "mean temperature 1.20"],
    "draft": ["plain: ", "the same tokens: True"],
    "page_of_a_run": ["written: "],
    "samples_and_vote": ["sample 1: ", "'57'", "100 % of the votes"],
    "serve_and_call": ["The answer is 57.", "exited at cue"],
    "stream_chat": ["The answer is", "exited at cue"],
}
"""What each prints."""
SLOW = {"attach_transformers", "batch", "calibrate_own_tasks", "serve_and_call"}
"""They load transformers, collect runs, or start a process."""
IN_A_FOLDER = {"calibrate_own_tasks", "page_of_a_run"}
"""They write into the folder that they are given."""


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in sorted(SAYS)])
def test_an_example_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [name, *([str(tmp_path)] if name in IN_A_FOLDER else [])])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    said = capsys.readouterr().out
    assert all(words in said for words in SAYS[name]), said
    assert name != "page_of_a_run" or "52 a+3 b-6 c+8" in (tmp_path / "run.html").read_text(encoding="utf-8")


def test_each_is_short_and_has_its_test() -> None:
    lines = {path.stem: len(path.read_text(encoding="utf-8").splitlines()) for path in EXAMPLES.glob("*.py")}
    assert lines.keys() == SAYS.keys() and max(lines.values()) <= 60
