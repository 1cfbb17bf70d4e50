"""The example of adaptive thinking: its comparison at equal tokens, and its table on a few problems."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.example_scripts import load

EXAMPLE = Path(__file__).parents[2] / "examples/studies/adaptive_thinking.py"


@pytest.fixture(scope="module")
def example() -> Any:
    return load("studies/adaptive_thinking.py")


def arm(example: Any, right: float, tokens: float, n: int = 400, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    return example.Arm((rng.permutation(n) < right * n).astype(float), np.full(n, tokens))


def test_equal_tokens_is_the_line_between_two_fixed_arms(example):
    fixed = [arm(example, 0.5, 100), arm(example, 0.6, 200), arm(example, 0.9, 400)]
    for tokens, line in ((150, 0.55), (200, 0.6), (250, 0.675)):
        found = example.beyond_fixed(arm(example, 0.7, tokens, seed=1), fixed)
        assert found.mean == pytest.approx(0.7 - line) and found.beside == ""
        assert found.low < found.mean < found.high and found.high - found.low < 0.2
    cheap, dear = (example.beyond_fixed(arm(example, 0.7, tokens), fixed) for tokens in (50, 999))
    assert (cheap.beside, dear.beside) == ("<", ">")
    assert (cheap.mean, dear.mean) == pytest.approx((0.7 - 0.5, 0.7 - 0.9))


def test_the_interval_is_of_pairs(example):
    """The same answers on the same problems differ by nothing, however hard the problems are."""
    same = arm(example, 0.5, 150)
    found = example.beyond_fixed(same, [same._replace(tokens=same.tokens - 50), same._replace(tokens=same.tokens + 50)])
    assert (found.mean, found.low, found.high) == (0.0, 0.0, 0.0)


def test_its_arms(example, monkeypatch, capsys):
    """In this process: re-opening costs more, exits cost less, and the probe's arms stand beside the fixed ones."""
    for name, value in (("cores", lambda: 1), ("RESAMPLES", 50)):
        monkeypatch.setattr(example, name, value)
    probe = str(example.BUNDLED_PROBE)
    setting = example.Setting(example.recipe_of("tiny", probe, 200), probe, 0.1, 6.0, "Wait", (2, 4))
    task = example.load_task("tiny")
    found = example.run(example.Console(as_json=False), setting, task.problems(3, stream=555), task.grader)
    tokens = {row["arm"]: row["tokens"] for row in found["arms"]}
    assert list(tokens) == [
        "as it is",
        "re-opened 2 times",
        "early exit only",
        "up to 2 times, probe asked",
        "up to 4 times, probe asked",
    ]
    assert tokens["early exit only"] < tokens["as it is"] < tokens["re-opened 2 times"]
    assert [row.get("beyond", {}).get("beside") for row in found["arms"]][:3] == [None, None, "<"]
    assert "beyond fixed k at equal tokens" in capsys.readouterr().out


@pytest.mark.slow
def test_the_table():
    command = [sys.executable, str(EXAMPLE), "-n", "3", "--risk", "0.1", "--max-new-tokens", "300", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    arms = json.loads(done.stdout.splitlines()[-1])["arms"]
    assert [row["arm"] for row in arms[:6]] == [
        "as it is",
        "re-opened 1 times",
        "re-opened 2 times",
        "re-opened 4 times",
        "re-opened 8 times",
        "early exit only",
    ]
    assert arms[6]["arm"] == "up to 1 times, probe asked" and len(arms) == 11
    assert arms[0]["tokens"] < arms[3]["tokens"] and all(("beyond" in row) == (i > 4) for i, row in enumerate(arms))
    broken = subprocess.run([*command[:2], "other.gguf", "tiny"], capture_output=True, text=True)
    assert broken.returncode == 2 and "--probe is missing" in broken.stderr
