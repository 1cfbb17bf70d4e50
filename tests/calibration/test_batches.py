"""Runs that are decoded together: the same runs, in windows that follow from their indices alone."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from reasonctl.calibration.fitting.begun import as_begun
from reasonctl.calibration.fitting.collecting import collect_job
from reasonctl.calibration.fitting.job import CalibrationJob
from reasonctl.calibration.runs import sampled
from reasonctl.calibration.runs.collect import asked_runs
from reasonctl.calibration.runs.job_file import line_of
from reasonctl.calibration.runs.recipe import Recipe
from reasonctl.calibration.runs.records import RunRecord
from reasonctl.calibration.runs.sampled import SampleSet
from reasonctl.calibration.runs.splits import runs_path
from reasonctl.calibration.runs.worker import collect_run, collect_runs
from reasonctl.calibration.tasks.sources import load_task
from reasonctl.controller import ControllerError
from reasonctl.probes.promise import Promise
from support.recipes import RECIPE

TASK = load_task("tiny")
FIT, N, BATCH = 16, 30, 2
PROBLEMS = TASK.problems(N, stream=6)


def recipe_on(backend: str) -> Recipe:
    return replace(RECIPE, backend=backend, batch=BATCH)


def job_at(out: Path) -> CalibrationJob:
    return CalibrationJob(recipe_on("llama.cpp"), TASK, Promise(), N, out, fit=FIT)


def collect(job: CalibrationJob) -> bytes:
    """The bytes of the job's runs, gone on with if there are some."""
    with closing(job.run_file(job.recipe.load())) as file:
        done = file.open(force=False)
        assert collect_job(job, file, PROBLEMS, done=done, workers=1, progress=lambda done, of: None)
    return runs_path(job.out).read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    """The runs of a job that nothing disturbed."""
    return collect(job_at(tmp_path_factory.mktemp("whole") / "p.safetensors"))


@pytest.fixture
def done(whole, tmp_path) -> CalibrationJob:
    """A job with all its runs."""
    job = job_at(tmp_path / "p.safetensors")
    runs_path(job.out).write_bytes(whole)
    return job


@pytest.mark.parametrize("backend", ["llama.cpp", pytest.param("transformers", marks=pytest.mark.slow)])
def test_runs_of_a_batch_are_those_of_single_runs(backend):
    """Up to rounding: tokens and answers are equal where no two logits of `tiny` nearly tie, as in these runs."""
    recipe = recipe_on(backend)
    window = asked_runs(PROBLEMS[:8])
    single = [collect_run(replace(recipe, batch=1), asked.run, asked.question) for asked in window]
    together = collect_runs(recipe, window)

    def said(one: RunRecord) -> object:
        return one.run, one.text, one.finish, [(cue.name, cue.position, cue.answer, cue.trial) for cue in one.cues]

    assert [said(one) for one in together] == [said(one) for one in single]
    assert any(one.cues for one in together)


@pytest.mark.parametrize(
    "kept", [1, FIT, FIT + 4, *(pytest.param(n, marks=pytest.mark.slow) for n in (5, 8, FIT + 1, N))]
)
def test_a_job_that_was_stopped_anywhere_ends_with_the_same_bytes(whole, tmp_path, kept):
    """After any number of lines: within a window, at its end, before and after the plan."""
    job = job_at(tmp_path / "p.safetensors")
    lines = whole.splitlines(keepends=True)
    runs_path(job.out).write_bytes(b"".join(lines[: 1 + kept]) + lines[1 + kept][: len(lines[1 + kept]) // 2])
    assert collect(job) == whole


def test_another_batch_does_not_go_on_in_the_same_file(done):
    other = replace(done, recipe=replace(done.recipe, batch=4))
    with pytest.raises(ControllerError, match="collected with another batch"):
        collect(other)


def test_a_job_that_was_begun_keeps_its_batch_where_none_is_asked_for(done):
    """So the same command without --batch ends with the bytes of the one that had it; files without one are of 1."""
    single, model = replace(done, recipe=replace(done.recipe, batch=1)), done.recipe.load()
    assert as_begun(single, model, choosing=False, batch_given=False).recipe.batch == BATCH
    assert as_begun(single, model, choosing=False).recipe.batch == 1
    other = replace(single, recipe=replace(single.recipe, seed=99))
    assert as_begun(other, model, choosing=False, batch_given=False).recipe.batch == 1  # another job's file
    header, _, runs = runs_path(done.out).read_bytes().partition(b"\n")
    old = json.loads(header)
    del old["settings"]["batch"]
    runs_path(done.out).write_bytes(line_of(old) + runs)
    single.run_file(model).check()
    assert as_begun(single, model, choosing=False, batch_given=False).recipe.batch == 1


def test_a_job_of_samples_renders_each_prompt_once_before_its_work(monkeypatch):
    """However many sets are drawn; each set's longest runs are checked all the same."""
    asked, checked = list[str](), list[tuple[str, int, int]]()
    model = RECIPE.load()

    def prompt(question: str) -> list[int]:
        asked.append(question)
        return model.prompt(question)

    def check(_, runs, batch, **_named):
        checked.append((str(runs[0].call.policy), max(len(run.call.prompt) for run in runs), batch))

    monkeypatch.setattr(Recipe, "load", lambda recipe: replace(model, prompt=prompt))
    monkeypatch.setattr(sampled, "check_batch", check)
    problems = load_task("tiny").problems(5, stream=3)
    sets = [SampleSet(policy, 6, policy) for policy in ("greedy", "temperature(0.6)", "temperature(2)")]
    sampled.check_samples(replace(RECIPE, batch=4), problems, sets, workers=1)
    longest = max(len(model.prompt(problem.question)) for problem in problems)
    assert checked == [(one.policy, longest, 4) for one in sets]
    assert len(asked) == len(problems) + len(sets)
