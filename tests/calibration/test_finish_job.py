"""A job that was stopped between its files is finished by the same command; a larger one goes on from a smaller one."""

from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from reasonctl.calibration.fitting.saved_runs import saved_runs
from reasonctl.calibration.runs.splits import report_path, runs_path
from reasonctl.controller import ControllerError
from reasonctl.probes.files.probe_file import digest_of, load_probe
from reasonctl.probes.risk.stopping import Stopping
from support.ctl import ctl
from support.jobs import finished, job


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A finished job."""
    return finished(tmp_path_factory.mktemp("made") / "p.safetensors")


@pytest.fixture
def done(made: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    for path in (made, runs_path(made), report_path(made)):
        shutil.copy(path, tmp_path)
    return tmp_path / made.name


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_missing_is_made_and_what_exists_is_kept(done, capfd):
    before = files(done.parent)
    code, _, err = ctl(capfd, *job(done))
    assert code == 2 and "exists already" in err  # nothing is missing
    report_path(done).unlink()
    at = done.stat().st_mtime_ns
    code, out, _ = ctl(capfd, *job(done))
    assert code == 0 and json.loads(out.splitlines()[-1])["complete"]
    assert files(done.parent) == before and done.stat().st_mtime_ns == at
    ngrams = done.with_name("n.safetensors")
    assert ctl(capfd, *job(done, 24, "--ngrams", str(ngrams)))[0] == 0
    assert ngrams.exists() and {**files(done.parent), ngrams.name: b""} == {**before, ngrams.name: b""}


@pytest.mark.parametrize("other", [["--answer-tokens", "9"], ["--seed", "4"], ["--mode", "wrong"], ["-n", "26"]])
def test_another_jobs_probe_is_not_finished(done, capfd, other):
    report_path(done).unlink()
    before = files(done.parent)
    code, _, err = ctl(capfd, *job(done, 24, *other))
    assert code == 2 and "made with other settings; overwrite it with --force" in err
    assert files(done.parent) == before


def test_a_page_is_written_whole_or_not_at_all(done, capfd, monkeypatch):
    before = files(done.parent)
    real = os.write

    def full(handle: int, data: bytes) -> int:
        if bytes(data[:5]) == b"<!DOC" or bytes(data[:5]) == b"<!doc":
            real(handle, data[:100])
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(handle, data)

    monkeypatch.setattr(os, "write", full)
    code, _, err = ctl(capfd, "report", str(done), "--force")
    assert code == 2 and "No space left on device" in err and files(done.parent) == before
    report_path(done).unlink()
    code, _, err = ctl(capfd, *job(done))
    assert code == 2 and "No space left on device" in err and not report_path(done).exists()
    monkeypatch.setattr(os, "write", real)
    assert ctl(capfd, *job(done))[0] == 0 and files(done.parent) == before


@pytest.mark.slow
def test_a_larger_job_goes_on_from_a_smaller_one(done, tmp_path, capfd):
    kept = done.with_name("small.safetensors")
    shutil.copy(done, kept)
    smaller = runs_path(done).read_bytes()
    code, _, err = ctl(capfd, *job(done, 26, "--force", "--no-report"))
    assert code == 0 and "resuming: 24 of 26 runs" in err
    larger = runs_path(done).read_bytes()
    assert larger.startswith(smaller) and len(larger.splitlines()) == 28
    fresh = tmp_path / "fresh" / "p.safetensors"
    fresh.parent.mkdir()
    assert ctl(capfd, *job(fresh, 26, "--no-report"))[0] == 0
    assert runs_path(fresh).read_bytes().splitlines()[1:] == larger.splitlines()[1:]
    known, anew = load_probe(done), load_probe(fresh)
    # Results were seen at 12 calibration runs, and the card keeps that; all else is the same.
    assert (known.card.stopping, anew.card.stopping) == (Stopping("fixed", (12, 14)), Stopping("fixed", (14,)))
    assert digest_of(replace(known, card=anew.card)) == digest_of(anew)
    # The smaller probe's runs are the first ones of the larger file; a smaller job needs no run at all.
    shutil.copy(runs_path(done), runs_path(kept))
    found = saved_runs(kept, load_probe(kept))
    assert found is not None and [record.run for record in found] == list(range(24))
    code, _, err = ctl(capfd, *job(done, 24, "--force", "--no-report"))
    assert code == 0 and "collecting" not in err and done.read_bytes() == kept.read_bytes()


def test_eval_uses_the_kept_runs_of_the_domain(done, capfd):
    """The regressions are fitted on all fitting runs, and thresholded on the domain's calibration runs."""
    arguments = [
        "eval",
        "tiny",
        "--probe",
        str(done),
        "-n",
        "2",
        "--workers",
        "1",
        "--confidence",
        "marginal",
        "--json",
    ]
    code, out, err = ctl(capfd, *arguments, "--domain", "4 steps", "--risk", "0.4")
    assert code == 0, err
    assert [row["name"] for row in json.loads(out.splitlines()[-1])["baselines"]] == [
        "probe",
        "cue index",
        "index + word",
        "index + word + text",
        "budget, equal cost",
        "oracle",
        "fixed cue at the probe's failure rate",
    ]


def test_a_task_that_has_changed_is_no_resuming(done, tmp_path, capfd):
    tasks, out = tmp_path / "t.jsonl", tmp_path / "q.safetensors"
    command = [
        "calibrate",
        "tiny",
        "--tasks",
        str(tasks),
        "--out",
        str(out),
        "-n",
        "2",
        "--fit",
        "1",
        "--time-limit",
        "0.001",
    ]
    for first in ("48 a-9 b+6 c-3", "58 a-9 b+6 c-3"):
        tasks.write_text("".join(json.dumps({"question": q, "answer": "1"}) + "\n" for q in (first, first + " d+2")))
        code, _, err = ctl(capfd, *command, "--max-new-tokens", "40", "--workers", "1")
        runs = runs_path(out).read_bytes()
    assert code == 2 and "holds runs of other problems" in err and runs_path(out).read_bytes() == runs


def test_runs_of_another_probe_are_refused_before_any_work(done, capfd):
    path = runs_path(done)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0], *reversed(lines[1:])]))
    for command in (["eval", "tiny", "--probe"], ["report", "--force"]):
        code, out, err = ctl(capfd, *command, str(done))
        assert code == 2 and "the file was changed" in err and "problems of tiny" not in out
    path.write_text("".join(lines[:10]))
    with pytest.raises(ControllerError, match="aren't the ones"):
        saved_runs(done, load_probe(done))
