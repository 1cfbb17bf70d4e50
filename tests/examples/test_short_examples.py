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
    "compare_policies": ["greedy ", "mean temperature 0.00", "mean temperature 0.60", "mean temperature 1.20"],
    "draft": ["plain: ", "the same tokens: True"],
    "page_of_a_run": ["written: "],
    "stream_chat": ["The answer is", "exited at cue"],
}
"""What each prints."""
SLOW = {"attach_transformers", "batch"}
"""They load transformers."""


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in sorted(SAYS)])
def test_an_example_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [name, *([str(tmp_path)] if name == "page_of_a_run" else [])])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    said = capsys.readouterr().out
    assert all(words in said for words in SAYS[name]), said
    assert name != "page_of_a_run" or "52 a+3 b-6 c+8" in (tmp_path / "run.html").read_text(encoding="utf-8")


def test_each_is_short_and_has_its_test() -> None:
    lines = {path.stem: len(path.read_text(encoding="utf-8").splitlines()) for path in EXAMPLES.glob("*.py")}
    assert lines.keys() == SAYS.keys() and max(lines.values()) <= 60
