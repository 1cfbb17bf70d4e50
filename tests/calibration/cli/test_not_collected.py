"""What a probe of records can't tell is said in one line, with its remedy; everything else works as ever."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from reasonctl.calibration.runs.splits import report_path, runs_path
from support.ctl import ctl
from support.jobs import finished, job


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A probe whose calibration runs tried exits at records only."""
    return finished(tmp_path_factory.mktemp("made") / "p.safetensors")


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (["--signal", "trial"], "the others were not collected; calibrate with --labels all"),
        (["--give-up", "0.1"], "giving up needs the answer of an exit at every cue"),
        (["--mode", "event"], "mode 'event' needs the answer of an exit at every cue"),
    ],
)
@pytest.mark.parametrize("command", ["inspect", "report", "eval"])
def test_a_promise_that_needs_every_trial_is_refused(made, capfd, command, asked, words):
    where = {"inspect": [str(made)], "report": [str(made), "--force"], "eval": ["tiny", "--probe", str(made)]}[command]
    code, _, err = ctl(capfd, command, *where, *asked)
    assert code == 2 and words in err and "--labels all" in err and len(err.splitlines()) == 1


def test_comparing_signals_is_refused(made, capfd):
    code, _, err = ctl(capfd, "replay", str(runs_path(made)))
    assert code == 2 and "tried at some cues only" in err and "not collected; calibrate with --labels all" in err


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (["--signal", "stack"], "--signal stack reads the answer of an exit at every cue"),
        (["--give-up", "0.1"], "--give-up reads"),
        (["--mode", "event"], "--mode event reads"),
        (["--fit", "24"], "-n is 24, and the first 24 runs fit, so that none would calibrate"),
    ],
)
def test_a_job_says_so_before_any_work(tmp_path, capfd, asked, words):
    code, _, err = ctl(capfd, *job(tmp_path / "p.safetensors", 24, *asked))
    assert code == 2 and words in err.splitlines()[-1] and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changed", "words"), [(["--fit", "10"], "another fit"), (["--labels", "all"], "another labels")]
)
def test_a_resumed_job_keeps_its_roles_and_its_labels(made, tmp_path, capfd, changed, words):
    out = tmp_path / "p.safetensors"
    shutil.copy(runs_path(made), runs_path(out))
    before = runs_path(out).read_bytes()
    code, _, err = ctl(capfd, *job(out, 24, *changed))
    assert code == 2 and words in err and runs_path(out).read_bytes() == before


def test_the_page_leaves_out_what_is_not_known(made, capfd):
    page = report_path(made).read_text()
    assert "was not collected" in page and "--labels all" in page
    assert "Always exiting at the same cue saves" not in page and ">oracle</li>" not in page


def test_cheap_rules_come_from_the_fresh_runs(made, capfd):
    asked = ["eval", "tiny", "--probe", str(made), "-n", "12", "--risk", "0.3", "--workers", "1", "--json"]
    code, out, said = ctl(capfd, *asked)
    assert code == 0 and "got their thresholds from these very runs" in said
    names = [row["name"] for row in json.loads(out.splitlines()[-1])["baselines"]]
    assert names[:5] == ["probe", "cue index", "index + word", "index + word + text", "budget, equal cost"]
