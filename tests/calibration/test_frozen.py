"""The fitting runs decide everything, once; the exits of calibration runs are tried where they can matter."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from reasonctl.calibration.fitting.all_signals import fill, recorded_scores
from reasonctl.calibration.fitting.collecting import collect_job, freeze, plan_of
from reasonctl.calibration.fitting.frozen import Frozen
from reasonctl.calibration.fitting.job import CalibrationJob, calibrate_and_save
from reasonctl.calibration.fitting.saved_runs import halves, saved_runs
from reasonctl.calibration.runs.arrays import to_arrays
from reasonctl.calibration.runs.collect import graded
from reasonctl.calibration.runs.job_file import line_of
from reasonctl.calibration.runs.records import FORMAT, RunRecord
from reasonctl.calibration.runs.run_file import RunFile
from reasonctl.calibration.runs.splits import runs_path, split
from reasonctl.calibration.runs.trials import Trials, few
from reasonctl.calibration.runs.worker import collect_run, one_run
from reasonctl.calibration.tasks.sources import load_task
from reasonctl.controller import ControllerError
from reasonctl.controller.core import Fields
from reasonctl.probes.exit import ProbeExit, make_exit
from reasonctl.probes.promise import Promise
from reasonctl.probes.risk.threshold import choose_threshold
from support.recipes import RECIPE
from support.run_records import cue, run

FIT, N = 16, 22
TASK = load_task("tiny")
PROBLEMS = TASK.problems(N, stream=6)
MODEL = RECIPE.load()


def job_at(out: Path, n: int = N, **changes: object) -> CalibrationJob:
    return replace(CalibrationJob(RECIPE, TASK, Promise(), n, out, fit=FIT), **changes)


def collected(job: CalibrationJob, problems=PROBLEMS) -> tuple[list[RunRecord], Frozen]:
    """The job's runs and plan, gone on with if there are some."""
    with closing(job.run_file(MODEL)) as file:
        done = file.open(force=False)
        assert collect_job(job, file, problems[: job.n], done=done, workers=1, progress=lambda a, b: None)
        return file.read()[: job.n], plan_of(job, file)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> CalibrationJob:
    """A job with its runs and its probe."""
    job = job_at(tmp_path_factory.mktemp("made") / "p.safetensors")
    calibrate_and_save(job, MODEL, *collected(job), force=False)
    return job


def lines_of(job: CalibrationJob) -> list[bytes]:
    return runs_path(job.out).read_bytes().splitlines(keepends=True)


def frozen_part(job: CalibrationJob, records: list[RunRecord], frozen: Frozen) -> tuple[object, ...]:
    """What of a probe file may not depend on calibration runs, as bytes and values."""
    found = calibrate_and_save(job, MODEL, records, frozen, force=True)
    arrays = {**found.probe.arrays(), "thresholds": found.grid.thresholds, "exits": found.grid.exits}
    return {name: array.tobytes() for name, array in arrays.items()}, found.card.cues, found.grid.loosest


def test_the_plan_stands_after_the_fitting_runs(made):
    lines = [json.loads(line) for line in lines_of(made)]
    assert lines[0]["format"] == FORMAT and set(lines[FIT + 1]) == {"plan"} and len(lines) == N + 2
    assert [line["run"] for line in [*lines[1 : FIT + 1], *lines[FIT + 2 :]]] == list(range(N))
    assert (lines[0]["settings"]["fit"], lines[0]["settings"]["labels"]) == (FIT, "records")


def test_no_calibration_run_changes_what_is_frozen(made, tmp_path):
    """Whatever their content, and however many there are: made anew from other problems, and altered afterwards."""
    records, frozen = collected(made)
    wanted = frozen_part(job_at(tmp_path / "a.safetensors"), records, frozen)
    others = [*PROBLEMS[:FIT], *TASK.problems(2 * N, stream=8)[-9:]]
    strange = job_at(tmp_path / "b.safetensors", n=len(others))
    found, plan = collected(strange, others)
    assert lines_of(strange)[FIT + 1] == lines_of(made)[FIT + 1]
    assert frozen_part(strange, found, plan) == wanted
    altered = [
        replace(
            one,
            right=not one.right,
            text="",
            cues=tuple(
                replace(met, score=met.score / 2, right=met.labelled and not met.right) if i >= FIT else met
                for met in one.cues
            ),
        )
        if i >= FIT
        else one
        for i, one in enumerate(records)
    ]
    assert frozen_part(job_at(tmp_path / "c.safetensors"), altered, frozen) == wanted
    # Planted: a plan that reads a calibration run is seen.
    peeking = freeze(replace(made, fit=FIT + 1), [*records[:FIT], altered[FIT]])
    assert frozen_part(job_at(tmp_path / "d.safetensors"), records, peeking) != wanted


def test_a_plan_is_read_back_and_never_computed_again(made, tmp_path, monkeypatch):
    """A killed job goes on with the plan that it finds, another one than it would make."""
    lines = lines_of(made)
    plan = json.loads(lines[FIT + 1])
    frozen = Frozen.from_json(Fields.of(plan["plan"], "the plan"))
    assert line_of({"plan": frozen.to_json()}) == lines[FIT + 1]
    shifted = replace(frozen, probe=replace(frozen.probe, biases=(*frozen.probe.biases[:-1], np.array([0.125]))))
    job = job_at(tmp_path / "p.safetensors")
    path = runs_path(job.out)
    path.write_bytes(b"".join([*lines[: FIT + 1], line_of({"plan": shifted.to_json()}), b'{"run":16']))
    monkeypatch.setattr("reasonctl.calibration.fitting.collecting.freeze", None)
    records, plan = collected(job)
    content = calibrate_and_save(job, MODEL, records, plan, force=False)
    assert content.probe.biases[-1].tolist() == [0.125]
    assert [one.score for one in records[FIT].cues] != [one["score"] for one in json.loads(lines[FIT + 2])["cues"]]


@pytest.mark.parametrize("cut", [FIT, FIT + 1, FIT + 2, FIT + 4])
def test_a_killed_job_gives_the_same_bytes(made, tmp_path, cut):
    """Before the plan, after it, and between calibration runs."""
    job, lines = job_at(tmp_path / "p.safetensors"), lines_of(made)
    path = runs_path(job.out)
    path.write_bytes(b"".join(lines[: cut + 1]) + lines[cut + 1][:40])
    calibrate_and_save(job, MODEL, *collected(job), force=False)
    assert path.read_bytes() == b"".join(lines) and job.out.read_bytes() == made.out.read_bytes()


def test_a_larger_job_moves_no_run(made, tmp_path):
    job = job_at(tmp_path / "p.safetensors", n=N - 3)
    records, frozen = collected(job)
    small = calibrate_and_save(job, MODEL, records, frozen, force=False)
    assert lines_of(job)[1:] == lines_of(made)[1 : N - 1]
    larger, again = collected(replace(job, n=N))
    assert halves(small, larger).calibration == halves(small, records).calibration == larger[FIT : N - 3]
    whole = calibrate_and_save(replace(job, n=N), MODEL, larger, again, force=True)
    assert halves(whole, larger).fitting == halves(small, larger).fitting
    # Planted: roles that follow from n move runs, and such a job can't go on in the file.
    assert set(split(N, 3)[0]) - set(split(2 * N, 3)[0])
    moving = replace(job, n=N, fit=N // 2)
    with pytest.raises(ControllerError, match="collected with another fit"):
        collected(moving)


def test_what_would_need_another_plan_is_refused(made):
    _, frozen = collected(made)
    frozen.check(RECIPE.cues, Promise(), "replace")
    with pytest.raises(
        ControllerError, match="planned for the cues wait, hmm, alternatively, mode harm and .* replace"
    ):
        frozen.check(RECIPE.cues, Promise("wrong"), "replace")
    for other in (("wait",), "replace"), (RECIPE.cues, "append"):
        with pytest.raises(ControllerError, match="another plan needs other runs"):
            frozen.check(other[0], Promise(), other[1])


def test_a_job_that_could_not_calibrate_is_refused():
    job = job_at(Path("p.safetensors"), n=FIT)
    with pytest.raises(ControllerError, match=f"-n is {FIT}, and the first {FIT} runs fit.* smaller --fit"):
        job.of(job.asked(MODEL))


def test_nothing_to_fit_on_is_said_after_the_fitting_runs():
    with pytest.raises(ControllerError, match=r"no cue .* was met .*\(the first 16 runs fit; more of them: --fit"):
        freeze(job_at(Path("p")), [run(run=i) for i in range(FIT)])


def test_the_recorded_score_is_the_deployed_one(made):
    """To the bit, in both ways of collecting; and an exit is tried exactly at the records above the floor."""
    records, frozen = collected(made)
    content = calibrate_and_save(made, MODEL, records, frozen, force=True)
    made_rule = make_exit(content, Promise())
    # A finite threshold that no score reaches: a rule that never exits would score nothing.
    rule = ProbeExit(content, made_rule.promise, replace(made_rule.threshold, value=2.0))
    tried = 0
    for record in records[FIT:]:
        trace, _ = one_run(RECIPE, MODEL, record.run, record.question, rule)
        scores = [decision.score for decision in trace.decisions]
        assert scores == [met.score for met in record.cues]
        highest = frozen.floor
        for met in record.cues:
            assert met.labelled == (met.score > highest)
            highest = max(highest, met.score)
            tried += met.labelled
        every = collect_run(RECIPE, record.run, record.question, Trials("all", frozen.probe))
        every = graded(every, PROBLEMS[record.run], TASK.grader)
        assert [one if one.labelled else None for one in record.cues] == [
            two if one.labelled else None for one, two in zip(record.cues, every.cues, strict=True)
        ]
        assert all(two.labelled for two in every.cues) and [two.score for two in every.cues] == scores
    assert 0 < tried < sum(len(record.cues) for record in records[FIT:])
    assert content.table.scores.tolist() == [met.score for record in records[FIT:] for met in record.cues]


def test_fitting_runs_are_tried_at_few_cues():
    """The first always, cue k once in k + 1 times; drawn from seed, run and cue alone."""
    which = Trials("few")
    wanted = np.array([[which.wanted(3, i, k, None, 0.0) for k in range(12)] for i in range(2000)])
    assert wanted[:, 0].all()
    share, expected = wanted.mean(axis=0), np.array([few(k) for k in range(12)])
    assert np.abs(share - expected).max() < 4 * 0.5 / 2000**0.5
    assert not which.wanted(3, 0, None, None, 0.0)
    assert (wanted[:50] == [[which.wanted(3, i, k, 0.9, 1.0) for k in range(12)] for i in range(50)]).all()
    other = np.array([[which.wanted(4, i, k, None, 0.0) for k in range(12)] for i in range(50)])
    assert (other != wanted[:50]).any()


def test_a_file_of_the_format_before_is_read_and_not_gone_on_with(tmp_path):
    path = tmp_path / "p.runs.jsonl"
    old = run(cues=(cue(right=True),)).to_json()
    for met in old["cues"]:
        del met["score"]
    path.write_bytes(line_of({"format": FORMAT - 1, "settings": {"cues": ["wait"]}}) + line_of(old))
    (found,) = RunFile(path, {}).read()
    assert found.cues[0].labelled and found.cues[0].score is None and RunFile(path, {}).read_plan() is None
    before = path.read_bytes()
    with pytest.raises(ControllerError, match="format 4, which is read but not gone on with; give another --out"):
        RunFile(path, {}).open(force=False)
    assert path.read_bytes() == before
    path.write_bytes(line_of({"format": FORMAT, "settings": {"cues": ["wait"]}}) + line_of(old))
    with pytest.raises(ControllerError, match="differ by score"):
        RunFile(path, {}).read()


@pytest.mark.parametrize("changes", [{"tokens": 30}, {"right": True, "tokens": None}, {"trial": 3, "tokens": None}])
def test_an_untried_cue_knows_nothing_of_an_answer(tmp_path, changes):
    values = {"answer": None, "tokens": None, "trial": 0, "logprobs": (), **changes}
    path = tmp_path / "p.runs.jsonl"
    path.write_bytes(line_of({"format": FORMAT, "settings": {}}) + line_of(run(cues=(cue(**values),)).to_json()))
    with pytest.raises(ControllerError, match="answer without its cost|what only a trial could give"):
        RunFile(path, {}).read()


def test_changed_calibration_runs_are_noticed(made, tmp_path):
    job = job_at(tmp_path / "p.safetensors")
    job.out.write_bytes(made.out.read_bytes())
    records, _ = collected(made)
    runs_path(job.out).write_bytes(b"".join(lines_of(made)))
    content = calibrate_and_save(made, MODEL, *collected(made), force=True)
    assert saved_runs(job.out, content) == records
    changed = replace(records[-1], answer="changed")
    runs_path(job.out).write_bytes(b"".join([*lines_of(made)[:-1], line_of(changed.to_json())]))
    with pytest.raises(ControllerError, match="aren't the ones that it was made from"):
        saved_runs(job.out, content)


@pytest.mark.slow
def test_both_ways_of_collecting_promise_the_same(tmp_path):
    """80 fitting and 160 calibration runs of the bundled model, collected at records and at every cue."""
    recipe = replace(RECIPE, max_new_tokens=768, layers=(1 / 3, 2 / 3, 1.0))
    problems = TASK.problems(240, stream=12)
    job = CalibrationJob(recipe, TASK, Promise(), 240, tmp_path / "p.safetensors", fit=80)
    records, frozen = collected(job, problems)
    every = [
        graded(collect_run(recipe, i, problems[i].question, Trials("all", frozen.probe)), problems[i], TASK.grader)
        for i in range(80, 240)
    ]
    domains = sorted({record.domain for record in records})
    arrays = [to_arrays(part) for part in (records[80:], every)]
    tables = [fill(frozen, part, domains, recorded_scores(part)).tables["hidden"].table for part in arrays]
    assert tables[1].all_labelled and not tables[0].all_labelled
    trials = [sum(met.labelled for record in part for met in record.cues) / 160 for part in (records[80:], every)]
    print(f"trials a run: {trials[0]:.2f} at records, {trials[1]:.2f} at every cue")
    assert trials[0] < 0.6 * trials[1]
    grid = frozen.grids["hidden"]
    for mode in ("harm", "wrong", "selective", "disagree"):
        for risk in (0.02, 0.05, 0.1, 0.2, 0.4):
            found, wanted = (choose_threshold(table, grid, mode, risk, 0.9) for table in tables)
            assert replace(found, why="") == replace(wanted, why="")
