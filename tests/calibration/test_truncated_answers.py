"""Tried answers that filled their limit: nobody knows how long they would have been, and every page says so."""

from __future__ import annotations

import json

import pytest

from reasonctl.calibration.runs.arrays import share_truncated, truncation_note
from reasonctl.calibration.runs.splits import report_path, runs_path
from support.ctl import ctl
from support.jobs import job
from support.run_records import cue, run

NOTE = "of the tried answers were truncated at 5 tokens"


def test_the_share_is_of_answers_at_the_limit():
    lengths = [[2, 3], [], [3, 1]]
    records = [run(cues=tuple(cue(logprobs=(0.0,) * n) for n in cues)) for cues in lengths]
    assert [share_truncated(records, limit) for limit in (2, 3, 4)] == [0.75, 0.5, 0.0]
    assert share_truncated([run()], 3) == 0.0
    assert truncation_note(0.0, 3) is None and "--answer-tokens 12" in str(truncation_note(0.5, 3))


@pytest.mark.parametrize(("limit", "share"), [("5", 1.0), ("64", 0.0)])
def test_calibrate_inspect_replay_and_the_page_tell(tmp_path, capfd, limit, share):
    """`The answer is 74.` has five tokens and an end of sequence; a young model may slip once in a hundred times."""
    out = tmp_path / "p.safetensors"
    arguments = job(out, 24, "--answer-tokens", limit, "--labels", "all")
    arguments.remove("--json")
    printed = [ctl(capfd, *arguments)[1], ctl(capfd, "inspect", str(out))[1], report_path(out).read_text()]
    _, result, said = ctl(capfd, "replay", str(runs_path(out)), "--splits", "1", "--json")
    assert [NOTE in text for text in (*printed, said)] == [share > 0] * 4
    assert json.loads(result.splitlines()[-1])["answers_cut"] == pytest.approx(share, abs=0.02)
