"""Collecting: what is recorded is what a deployed exit gives, and a killed job loses and doubles nothing."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import time
from contextlib import closing
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from reasonctl.calibration.runs.arrays import text_features, to_arrays
from reasonctl.calibration.runs.collect import collect, graded, identity_of, settings_of
from reasonctl.calibration.runs.records import CueRecord, RunRecord, pack, unpack
from reasonctl.calibration.runs.run_file import FORMAT, RunFile
from reasonctl.calibration.runs.splits import split
from reasonctl.calibration.runs.worker import answer_text, collect_run, one_run
from reasonctl.calibration.tasks.graders import NUMBER
from reasonctl.calibration.tasks.problem import Problem
from reasonctl.calibration.tasks.sources import load_task
from reasonctl.controller import ControllerError, Cues, Markers
from reasonctl.probes.fixed_exits import FixedExit
from support.recipes import RECIPE
from support.run_records import cue, run

PROBLEMS = load_task("tiny").problems(4, stream=6)


@pytest.fixture(scope="module")
def records():
    return [collect_run(RECIPE, i, problem.question) for i, problem in enumerate(PROBLEMS)]


@pytest.mark.parametrize("backend", ["llama.cpp", "transformers"])
def test_a_trial_is_what_the_exit_itself_gives(backend):
    """Same routine, same keys: the recorded answer and cost of every cue are those of a run that exits there."""
    recipe = replace(RECIPE, backend=backend)
    model = recipe.load()
    checked = 0
    for i, problem in enumerate(PROBLEMS[:2]):
        record = collect_run(recipe, i, problem.question)
        for k, tried in enumerate(record.cues[:4]):
            rule = FixedExit(index=k, cues=Cues(recipe.cues), suffix=recipe.suffix, markers=Markers(*recipe.markers))
            trace, _ = one_run(recipe, model, i, problem.question, rule)
            assert trace.exit is not None and trace.exit.position == tried.position
            assert trace.cost == tried.tokens
            assert answer_text(recipe, model, trace.tokens[trace.forced[0] :]) == tried.answer
            assert model.tokenizer.decode(trace.tokens).count("</think>") == 1
            checked += 1
    assert checked >= 4


def test_collecting_leaves_the_run_as_it_was(records):
    model = RECIPE.load()
    for i, problem in enumerate(PROBLEMS):
        trace, _ = one_run(RECIPE, model, i, problem.question, None)
        assert records[i].tokens == len(trace.tokens) == trace.cost
        assert records[i].answer == answer_text(RECIPE, model, trace.tokens)


def test_a_run_depends_on_nothing_that_ran_before_it(records):
    for i in (3, 0, 2):
        assert collect_run(RECIPE, i, PROBLEMS[i].question) == records[i]


def job(path, settings=None, **more) -> bytes:
    """A small job's file, gone on with if there is a part of it."""
    with closing(RunFile(path, settings or {"seed": 3})) as file:
        done = file.open(force=False)
        assert collect(RECIPE, PROBLEMS, NUMBER, file, done=done, workers=1, progress=lambda a, b: None, **more)
    return path.read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    """The file of a job that nothing disturbed."""
    return job(tmp_path_factory.mktemp("whole") / "runs.jsonl")


def test_resuming_gives_the_same_bytes_wherever_it_was_cut(whole, tmp_path):
    assert len(whole.splitlines()) == 1 + len(PROBLEMS)
    rng = random.Random(1)
    header = whole.index(b"\n") + 1
    for at in [header, header + 1, len(whole) - 1, *(rng.randrange(header, len(whole)) for _ in range(3))]:
        torn = tmp_path / f"torn{at}.jsonl"
        torn.write_bytes(whole[:at])
        assert job(torn) == whole


def test_two_workers_write_what_one_writes(tmp_path):
    alone, pair = tmp_path / "alone", tmp_path / "pair"
    for path, workers in ((alone, 1), (pair, 2)):
        file = RunFile(path, {})
        collect(
            RECIPE, PROBLEMS, NUMBER, file, done=file.open(force=False), workers=workers, progress=lambda a, b: None
        )
    assert alone.read_bytes() == pair.read_bytes()


def test_another_jobs_file_is_refused_and_left_alone(whole, tmp_path):
    path = tmp_path / "runs.jsonl"
    path.write_bytes(whole)
    with pytest.raises(ControllerError, match="another seed"):
        RunFile(path, {"seed": 4}).open(force=False)
    assert path.read_bytes() == whole
    for foreign in (b"hello\nworld", b"\x00\x01"):
        other = tmp_path / "foreign"
        other.write_bytes(foreign)
        with pytest.raises(ControllerError, match="no file of collected runs"):
            RunFile(other, {}).open(force=False)
        assert other.read_bytes() == foreign
    with pytest.raises(ControllerError, match="folder"):
        RunFile(tmp_path, {}).open(force=False)


def test_only_a_job_is_advised_to_start_over(tmp_path):
    """Who only reads has no --force, and would lose a file by it."""
    path = tmp_path / "runs.jsonl"
    for header in (b'{"format":1,"settings":{}}\n', b'{"format":"x"}\n'):
        path.write_bytes(header)
        file = RunFile(path, {})
        with pytest.raises(ControllerError, match="start over with --force"):
            file.open(force=False)
        for reading in (file.read, file.stored_settings):
            with pytest.raises(ControllerError, match="give the .runs.jsonl") as refused:
                reading()
            assert "--force" not in str(refused.value)


def test_clocks_that_jump_change_nothing(whole, tmp_path, monkeypatch):
    """The wall clock goes back by a year at every look; the deadline lies ten minutes ahead on the monotonic one."""
    for year in (3.2e7, -3.2e7):
        now = [time.time()]

        def jumping(now=now, year=year):
            now[0] += year
            return now[0]

        with monkeypatch.context() as patch:
            patch.setattr(time, "time", jumping)
            assert job(tmp_path / f"jumped{year}.jsonl", deadline=time.monotonic() + 600) == whole


def test_another_model_under_the_same_name_is_refused(tmp_path):
    right = identity_of(RECIPE.load())
    with closing(RunFile(tmp_path / "right", {"model": right})) as file:
        job_of = partial(collect, RECIPE, PROBLEMS[:1], NUMBER, workers=1, progress=lambda a, b: None)
        assert job_of(file, done=file.open(force=False))
    with closing(RunFile(tmp_path / "wrong", {"model": {**right, "fingerprint": "0"}})) as file:
        done = file.open(force=False)
        with pytest.raises(ControllerError, match="model 'tiny' on .* isn't the one"):
            job_of(file, done=done)


def documented(part: str) -> dict[str, str]:
    """Field and type of every row of a table of docs/runs-format.md."""
    text = (Path(__file__).parents[2] / "docs/runs-format.md").read_text()
    section = text.split(f"\n## {part}")[1].split("\n## ")[0]
    return dict(re.findall(r"^\| `(\w+)` \| ([\w ]+) \|[^|]*\|[^|]+\|$", section, re.MULTILINE))


TYPES = {
    "integer": int,
    "number": float,
    "boolean": bool,
    "text": str,
    "array": list,
    "object": dict,
    "text or null": str | None,
    "integer or null": int | None,
    "number or null": float | None,
    "object or null": dict | None,
    "array or null": list | None,
}


def test_the_documented_format_is_the_written_one(tmp_path):
    path = tmp_path / "runs.jsonl"
    model, task = RECIPE.load(), load_task("tiny")
    job(path, settings_of(RECIPE, task, model, len(PROBLEMS)))
    header, *runs = [json.loads(line) for line in path.read_text().splitlines()]
    cues = [cue for run in runs for cue in run["cues"]]
    written = {"Header": [header], "Settings": [header["settings"]], "Run": runs, "Cue": cues}
    for part, objects in written.items():
        fields = documented(part)
        assert objects
        for found in objects:
            assert set(found) == set(fields), part
            for name, kind in fields.items():
                assert isinstance(found[name], TYPES[kind]), (part, name)
                assert kind == "boolean" or not isinstance(found[name], bool), (part, name)
    assert f"{FORMAT}" == str(header["format"])
    sizes = {len(unpack(cue["hidden"])) for cue in cues}
    assert sizes == {len(RECIPE.layers) * model.width}
    assert [run["run"] for run in runs] == list(range(len(runs)))


def test_a_record_is_its_line_and_the_line_its_record(whole, tmp_path):
    """Byte for byte, on a real job's file and on values at their limits."""
    path = tmp_path / "runs.jsonl"
    path.write_bytes(whole)
    lines = whole.splitlines(keepends=True)
    odd = run(
        run=len(lines) - 1,
        gold=None,
        text="\u2028\x00\U0001f600",
        others=(cue(logprobs=(), entropy=1e-300, value="-1", state=np.zeros(2 * 128)),),
        problem=2**63 - 1,
    )
    copy = RunFile(tmp_path / "copy.jsonl", {"seed": 3})
    with closing(copy):
        copy.open(force=False)
        for line in lines[1:]:
            copy.append(RunRecord.from_json(json.loads(line)))
        assert copy.path.read_bytes() == whole
        copy.append(odd)
    assert copy.read()[-1] == odd and copy.read()[:-1] == RunFile(path, {}).read()
    for part, kind in (("Run", RunRecord), ("Cue", CueRecord)):
        assert {field.name for field in fields(kind)} == set(documented(part))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda run: run.pop("gold"), "differ by gold"),
        (lambda run: run.update(tokens="12"), "'tokens' in line 3 of"),
        (lambda run: run.update(right=1), "is 1; it must be true or false"),
        (lambda run: run.update(cues={}), "is an object of 0 fields; it must be a list"),
        (lambda run: run["cues"][0].update(logprobs=[None]), "'logprobs' in cue 1 of 'cues' in line 3"),
        (lambda run: run["cues"][0].update(more=1), "differ by more"),
        (lambda run: run["cues"][0].update(hidden="x"), "no base64 of float32"),
        (lambda run: run["cues"][0].update(names=[]), "none of its names"),
        (lambda run: run["cues"][0].update(hidden=pack(np.array([np.nan], np.float32))), "NaN or infinite"),
        (lambda run: run["cues"][0].update(hidden=pack(np.zeros(3, np.float32))), "others 3|of 3 values"),
        (lambda run: run.update(tokens=2**31), "from 0 to 2147483647"),
        (lambda run: run.update(run=7), "run 7 stands where run 1 belongs"),
    ],
)
def test_a_line_that_is_no_run_is_named_by_its_number(whole, tmp_path, change, message):
    path = tmp_path / "runs.jsonl"
    header, first, second, *rest = whole.decode().splitlines()
    broken = json.loads(second)
    change(broken)
    for bad in (json.dumps(broken), "[]", "no JSON"):
        path.write_text("\n".join([header, first, bad, *rest, ""]))
        with pytest.raises(ControllerError, match="; the file was changed: move it away") as caught:
            RunFile(path, {}).read()
        said = str(caught.value)
        assert "\n" not in said and (re.search(message, said) or ("line 3 of " in said and bad in ("[]", "no JSON")))


def test_cues_are_found_in_the_text(records):
    cues = 0
    for record in records:
        assert record.text.endswith(record.answer)
        for met in record.cues:
            assert record.text[met.offset :].lstrip().lower().startswith(met.name)
            cues += 1
    assert cues >= 4


@pytest.mark.parametrize("fail_at", [0, 2, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 3))])
def test_a_full_disk_loses_no_finished_run(whole, tmp_path, monkeypatch, fail_at):
    path, calls, real = tmp_path / "runs.jsonl", [0], os.fsync

    def fsync(handle):
        calls[0] += 1
        if calls[0] > fail_at:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(ControllerError, match="No space left on device; finished runs are safe"):
        job(path)
    monkeypatch.setattr(os, "fsync", real)
    assert job(path) == whole


def test_grading_and_arrays(records):
    wrong = replace_answer(PROBLEMS[0], "0")
    assert not graded(records[0], wrong, NUMBER).right
    grades = [graded(r, p, NUMBER) for r, p in zip(records, PROBLEMS, strict=True)]
    runs = to_arrays(grades)
    assert runs.offsets[-1] == len(runs.features) == len(runs.text) == sum(len(r.cues) for r in grades)
    assert runs.features.shape[1] == 2 * 128
    assert (runs.features[0] == grades[0].cues[0].state).all()
    empty = to_arrays([replace(grades[0], cues=())])
    assert empty.text.shape == (0, 6) and list(empty.offsets) == [0, 0]


def replace_answer(problem: Problem, answer: str) -> Problem:
    return Problem(problem.question, answer)


def test_text_features_count_repeats():
    rows = text_features([cue(value=v, position=10) for v in ("5", "5", "7", "5", "5", "5")])
    assert [row[2] for row in rows] == [0, 1, 0, 0, 1, 2]
    assert [row[3] for row in rows] == [1, 2, 1, 3, 4, 5]
    assert [row[4] for row in rows] == [1, 1, 2, 2, 2, 2]


def test_packing_is_exact():
    values = np.random.default_rng(0).normal(size=50).astype(np.float32)
    assert (unpack(pack(values)) == values).all()


def test_the_old_splits_are_disjoint_and_whole():
    fit, calibrate = split(101, 4)
    assert sorted(fit + calibrate) == list(range(101))
    assert split(101, 4) == (fit, calibrate) != split(101, 5)
