"""Tried answers that filled their limit: nobody knows how long they would have been, and every page says so."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from reasonctl.calibration.pages.wording import truncation_of
from reasonctl.calibration.runs.arrays import ANSWERS_TRUNCATED, share_truncated, truncation_note
from reasonctl.calibration.runs.collect import graded
from reasonctl.calibration.runs.job_file import line_of
from reasonctl.calibration.runs.records import CueRecord, RunRecord
from reasonctl.calibration.runs.splits import report_path, runs_path
from reasonctl.calibration.runs.worker import collect_run
from reasonctl.calibration.tasks.sources import load_task
from reasonctl.controller import ControllerError
from reasonctl.probes import load_probe
from support.ctl import ctl
from support.jobs import job
from support.recipes import RECIPE
from support.run_records import cue, run

PROBLEMS = load_task("tiny").problems(2, stream=6)
UNTRIED = dict(answer=None, tokens=None, trial=0, logprobs=[], right=False, same=False)
NOTE = "of the tried answers were truncated at 64 tokens"


def test_the_share_is_of_answers_at_the_limit():
    lengths = [[2, 3], [], [3, 1]]
    records = [run(cues=tuple(cue(logprobs=(0.0,) * n) for n in cues)) for cues in lengths]
    assert [share_truncated(records, limit) for limit in (2, 3, 4)] == [0.75, 0.5, 0.0]
    assert share_truncated([run()], 3) == 0.0
    assert truncation_note(0.0, 3) is None and "--answer-tokens 12" in str(truncation_note(0.5, 3))


def test_an_answer_that_ends_at_the_limit_is_whole_where_the_run_says_so():
    """Runs from before `complete` keep their bytes, and are counted by length."""
    known = [cue(logprobs=(0.0, 0.0), complete=whole) for whole in (True, True, False, None)]
    records = [run(cues=tuple(known))]
    assert share_truncated(records, 2) == 0.5 and share_truncated(records, 3) == 0.25
    written = records[0].to_json()
    assert [one.get("complete") for one in written["cues"]] == [True, True, False, None]
    assert "complete" not in written["cues"][3]
    parsed = json.loads(line_of(written))
    assert RunRecord.from_json(parsed) == records[0]
    assert line_of(RunRecord.from_json(parsed).to_json()) == line_of(written)
    parsed["cues"][0]["complete"] = "yes"
    with pytest.raises(ControllerError, match="true or false"):
        RunRecord.from_json(parsed)
    with pytest.raises(ControllerError, match="has no answer, and yet"):
        CueRecord.from_json({**parsed["cues"][1], **UNTRIED})


def test_a_collected_answer_that_its_box_ends_at_the_limit_is_whole():
    """The answer `The answer is N.` and the end of sequence: as many tokens as the limit, and the last one ends it."""
    recipe = replace(RECIPE, max_new_tokens=60)
    free = [one for i, p in enumerate(PROBLEMS) for one in collect_run(recipe, i, p.question).cues]
    longest = max(len(one.logprobs) for one in free)
    assert all(one.complete for one in free)
    for limit, share in ((longest, 0.0), (longest - 1, 1.0)):
        records = [collect_run(replace(recipe, answer_tokens=limit), i, p.question) for i, p in enumerate(PROBLEMS)]
        cut = [len(one.logprobs) >= limit for record in records for one in record.cues]
        assert any(cut) and share_truncated(records, limit) == pytest.approx(share * sum(cut) / len(cut))


@pytest.mark.parametrize("form", ["whole", "truncated"])
def test_a_truncated_answer_is_never_right(form):
    """A deployed exit writes on: what it says up to the limit is no answer."""
    task, record = load_task("tiny"), run(cues=(cue(answer="The answer is 7.", complete=form == "whole"),))
    problem = replace(PROBLEMS[0], answer="7")
    made = graded(replace(record, answer="The answer is 7."), problem, task.grader)
    assert (made.cues[0].right, made.cues[0].same, made.right) == (form == "whole", form == "whole", True)


def test_a_job_of_truncated_answers_promises_nothing(tmp_path, capfd):
    arguments = job(tmp_path / "p.safetensors", 24, "--answer-tokens", "5", "--labels", "all")
    code, _, err = ctl(capfd, *arguments)
    assert code == 2 and "a truncated one counts as wrong: --answer-tokens" in err.splitlines()[-1]


def test_calibrate_inspect_replay_and_the_page_tell(tmp_path, capfd):
    """They say how many were truncated, and nothing where none was: a young model may loop once in a hundred times."""
    out = tmp_path / "p.safetensors"
    arguments = job(out, 24, "--labels", "all")
    arguments.remove("--json")
    printed = [ctl(capfd, *arguments)[1], ctl(capfd, "inspect", str(out))[1], report_path(out).read_text()]
    replay = ("replay", str(runs_path(out)), "--splits", "1", "--json")
    _, result, said = ctl(capfd, *replay)
    before = json.loads(result.splitlines()[-1])["answers_cut"]
    assert [NOTE in text for text in (*printed, said)] == [before > 0] * 4 and before < 0.05

    header, *lines = runs_path(out).read_text().splitlines()
    runs = [json.loads(line) for line in lines]
    for one in runs:
        for tried in one.get("cues", [])[:1]:
            tried.update(complete=False, right=False, same=False)
    runs_path(out).write_bytes(f"{header}\n".encode() + b"".join(line_of(one) for one in runs))
    _, result, said = ctl(capfd, *replay)
    share = json.loads(result.splitlines()[-1])["answers_cut"]
    assert NOTE in said and before < share < 0.5
    card = load_probe(out).card
    assert NOTE in str(truncation_of(replace(card, report=card.report | {ANSWERS_TRUNCATED: share})))
