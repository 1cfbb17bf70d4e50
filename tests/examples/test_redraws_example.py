"""The example that re-draws calibration sets: its table on the bundled probe, and which recorded runs are its pool."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from reasonctl.calibration.evaluation.redraws import redraw
from reasonctl.calibration.runs.run_file import RunFile
from reasonctl.probes.files.probe_file import ProbeFile, load_probe
from reasonctl.probes.risk.threshold import choose_threshold
from support.example_scripts import load
from support.run_records import cue, run

ROOT = Path(__file__).parents[2]
EXAMPLE, PROBE = ROOT / "examples/studies/redraws.py", ROOT / "backends/tiny_probe/tiny.probe.safetensors"


@pytest.fixture(scope="module")
def content() -> ProbeFile:
    return load_probe(PROBE)


def run_file(path: Path, content: ProbeFile, problems: list[int]) -> Path:
    """Runs of two cues with random hidden states."""
    rng, file = np.random.default_rng(0), RunFile(path, {})
    file.open(force=False)
    for number, problem in enumerate(problems):
        cues = [
            cue(
                name=content.card.cues[0],
                position=5 + 4 * k,
                tokens=9 + 4 * k,
                trial=3,
                right=True,
                same=True,
                state=rng.normal(size=content.probe.size),
            )
            for k in range(2)
        ]
        file.append(run(run=number, problem=problem, tokens=40, cues=tuple(cues)))
    file.close()
    return path


def test_runs_that_fitted_the_probe_are_left_out(content: ProbeFile, tmp_path: Path) -> None:
    example = load("studies/redraws.py")
    calibrated = content.table.problem.tolist()
    strange = [problem for problem in range(10**6, 10**6 + 8) if problem not in content.table.problem]
    mixed = example.pool_of(content, run_file(tmp_path / "a", content, strange[:3] + calibrated), "hidden")
    assert mixed.problem.tolist() == calibrated and mixed.cues == 2 * len(calibrated)
    # Another seed's runs: one of its problems happens to be among those that calibrated.
    others = [*strange, *strange[:2], calibrated[0]]
    fresh = example.pool_of(content, run_file(tmp_path / "b", content, others), "hidden")
    assert fresh.problem.tolist() == [*strange, calibrated[0]]
    assert example.pool_of(content, None, "hidden").runs == len(np.unique(content.table.problem))


def test_the_table_of_the_bundled_probe(content: ProbeFile) -> None:
    """False alarm at a promise's very limit: 0.0013 a row. `harm, 0.9` is done again here, draw by draw."""
    command = [sys.executable, str(EXAMPLE), str(PROBE), "--draws", "20", "--runs", "100", "--risk", "0.1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    assert [(row["mode"], row["confidence"]) for row in result["rows"]] == [
        ("harm", 0.9),
        ("wrong", 0.9),
        ("selective", 0.9),
        ("disagree", 0.9),
        ("harm", None),
        ("wrong", None),
        ("disagree", None),
        ("event", None),
    ]
    assert [row["nominal"] for row in result["rows"]] == pytest.approx([0.1] * 8)
    assert all(row["kept"] and row["violations"] <= row["bound"] for row in result["rows"])
    pool, above, saved = content.table.one_per_problem(), 0, []
    for table in redraw(pool, 100, 20, seed=0):
        value = choose_threshold(table, content.grid, "harm", 0.1, 0.9).value
        out = pool.outcomes(pool.first_exit(value))
        above += out.harm.mean() > 0.1
        saved.append(1 - out.tokens.mean() / pool.full_tokens.mean())
    harm = result["rows"][0]
    assert harm["violations"] == above / 20 and harm["saved"] == pytest.approx(np.mean(saved)) and harm["saved"] > 0.6
    assert harm["never"] == 0.0 < harm["exit_rate"]
    assert "LYNX" in done.stderr and "harm, 0.9" in done.stderr and "BROKEN" not in done.stderr


def test_another_signal_and_its_lynx() -> None:
    """Trials say little, and LYNX's level per cue says little of a run: its violations stand beside ours."""
    command = [sys.executable, str(EXAMPLE), str(PROBE), "--draws", "20", "--runs", "100", "--signal", "trial"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = json.loads(done.stdout.splitlines()[-1])["rows"]
    assert any(row["lynx"] > row["bound"] for row in rows) and all(row["kept"] for row in rows)
    assert rows[0]["saved"] < 0.0 < rows[0]["exit_rate"]  # net of trials: more is spent on them than is saved
    never = next(row for row in rows if row["mode"] == "selective")
    assert never["never"] == 1.0 and never["saved"] == 0.0  # and a rule that never exits tries nothing
