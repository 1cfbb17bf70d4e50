"""`ctl eval --out`: a job that was stopped goes on, and says what an undisturbed one says."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reasonctl.calibration.evaluation import pairs
from support.ctl import ctl

EVAL = ("eval", "tiny", "--risk", "0.1", "-n", "12", "--batch", "2", "--workers", "1", "--json")
"""Two windows: eight problems, and four."""


def run(capfd: pytest.CaptureFixture[str], *more: object) -> tuple[int, dict[str, Any], str]:
    """The command's code, its JSON without the seconds, and what it says."""
    code, out, err = ctl(capfd, *EVAL, *map(str, more))
    found = json.loads(out.splitlines()[-1]) if code == 0 else {}
    for arm in ("baseline", "controlled"):
        found.get(arm, {}).pop("seconds", None)
    return code, found, err


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("made") / "e.jsonl"


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the windows that are made from now on."""
    sizes: list[int] = []
    whole: Callable[..., Any] = pairs.evaluate_window

    def evaluate(recipe, window, *rest):
        sizes.append(len(window))
        return whole(recipe, window, *rest)

    monkeypatch.setattr(pairs, "evaluate_window", evaluate)
    return sizes


def test_a_stopped_job_says_what_an_undisturbed_one_does(made, tmp_path, capfd, monkeypatch):
    sizes = counted(monkeypatch)
    code, whole, err = run(capfd, "--out", made)
    assert code == 0, err
    assert sizes == [8, 4] and whole["n"] == 12 and whole["baselines"] and "problems are in" not in err
    lines = made.read_bytes().splitlines(keepends=True)
    assert len(lines) == 3
    out, traces = tmp_path / "e.jsonl", tmp_path / "t.jsonl"
    out.write_bytes(b"".join(lines[:2]) + lines[2][:300])  # killed while it wrote the second window
    code, again, err = run(capfd, "--out", out, "--trace", traces)
    assert code == 0 and "8 of 12 problems are in" in err, err
    assert sizes == [8, 4, 4] and again == whole and len(traces.read_text().splitlines()) == 4
    code, third, err = run(capfd, "--out", out)
    assert code == 0 and sizes == [8, 4, 4] and third == whole  # nothing is left to make


def test_nothing_is_kept_unless_asked_for(made, capfd, monkeypatch):
    sizes = counted(monkeypatch)
    code, plain, _ = run(capfd)
    assert code == 0 and sizes == [8, 4]
    assert plain == run(capfd, "--out", made)[1]


@pytest.mark.parametrize(
    ("more", "another"),
    [
        (["-n", 13], "n"),
        (["--seed", 3], "seed"),
        (["--risk", 0.2], "promise"),
        (["--no-baselines"], "baselines"),
        (["--batch", 1], "batch"),
        (["--policy", "temperature(0.8)"], "policy"),
        (["--draft", "ngram"], "draft"),
    ],
)
def test_another_jobs_file_is_refused(made, capfd, more, another):
    assert run(capfd, "--out", made)[0] == 0
    before = made.read_bytes()
    code, _, err = run(capfd, "--out", made, *more)
    assert code == 2 and f"holds evaluated runs collected with another {another}; give the old settings" in err
    assert made.read_bytes() == before


def changed(line: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    value = json.loads(line)
    change(value["problems"][0])
    return json.dumps(value).encode() + b"\n"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda one: one.update(question="1 + 1?"), "line 2 of .* holds other problems than this job's"),
        (lambda one: one["arms"].pop(), "line 2 of .* has 1 arms of a problem, not 2"),
        (lambda one: one["arms"][0].update(tokens=-1), "'tokens' in line 2 of .* is -1"),
        (lambda one: one["record"].pop("text"), "line 2 of .*text"),
        (lambda one: one.update(more=1), "line 2 of .*more"),
    ],
)
def test_a_damaged_line_is_named(made, tmp_path, capfd, change, says):
    assert run(capfd, "--out", made)[0] == 0
    header, first, second = made.read_bytes().splitlines(keepends=True)
    out = tmp_path / "e.jsonl"
    out.write_bytes(header + changed(first, change) + second)
    code, _, err = run(capfd, "--out", out)
    assert code == 2 and re.search(says, " ".join(err.split())), err


def test_force_starts_another_jobs_file_over(made, tmp_path, capfd, monkeypatch):
    assert run(capfd, "--out", made)[0] == 0
    out, sizes = tmp_path / "e.jsonl", counted(monkeypatch)
    out.write_bytes(made.read_bytes())
    code, _, err = run(capfd, "--out", out, "-n", 3, "--force")
    assert code == 0 and sizes == [3] and "problems are in" not in err
    code, _, err = run(capfd, "--force")
    assert code == 2 and "--force" in err and "nothing is written" in err


def test_files_of_one_command_are_several_files(made, tmp_path, capfd):
    """Two writers of one file would wait for each other for ever, and a page would take the runs' place."""
    for option in ("--trace", "--report"):
        code, _, err = run(capfd, "--out", tmp_path / "x.html", option, tmp_path / "x.html")
        assert code == 2 and not (tmp_path / "x.html").exists(), option
        assert "another file of this command" in err or "which it is made from" in err


def test_a_page_needs_no_baselines(tmp_path, capfd):
    code, _, err = run(capfd, "-n", 2, "--no-baselines", "--report", tmp_path / "r.html")
    assert code == 0 and (tmp_path / "r.html").stat().st_size > 10_000, err
