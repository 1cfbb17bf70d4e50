"""No two problems of a job, and none of two splits, are the same to the model, however their texts differ."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from reasonctl.backends.model import Model
from reasonctl.calibration.evaluation.pairs import fresh
from reasonctl.calibration.fitting.job import CalibrationJob
from reasonctl.calibration.runs.records import RunRecord
from reasonctl.calibration.tasks.problem import Distinct, Problem
from reasonctl.calibration.tasks.sources import load_task
from reasonctl.controller import ControllerError
from reasonctl.probes.files.probe_file import ProbeFile
from reasonctl.probes.promise import Promise
from support.probe_files import card, content
from support.recipes import RECIPE
from support.toy_models import writing


def folded(question: str) -> list[int]:
    """Prompts of a model that doesn't see case."""
    return [ord(character) for character in question.casefold()]


MODEL: Model = replace(writing([b"4", RECIPE.suffix.encode()]), prompt=folded)


def tasks(path: Path, *questions: str) -> str:
    path.write_text("\n".join(json.dumps({"question": q, "answer": "4"}) for q in questions))
    return str(path)


def job(path: Path, *questions: str, n: int) -> CalibrationJob:
    return CalibrationJob(RECIPE, load_task(tasks(path, *questions)), Promise(), n, path.with_name("p.safetensors"))


def made_from(task: str, runs: int) -> ProbeFile:
    """A probe of so many runs on a task; its table knows no problem of it."""
    counts = {"fit": runs // 2, "calibrate": runs // 2}
    return replace(content(), card=card(tasks=task, seeds={"seed": RECIPE.seed}, runs=counts))


def test_a_job_asks_each_prompt_once(tmp_path):
    twins = job(tmp_path / "t.jsonl", "Who?", "who?", "Why?", "WHY?", n=2)
    assert {folded(p.question)[1] for p in twins.asked(MODEL).problems} == {ord("h")}
    assert len({tuple(folded(p.question)) for p in twins.asked(MODEL).problems}) == 2
    with pytest.raises(ControllerError, match="only 2 distinct problems left of the 3"):
        replace(twins, n=3).asked(MODEL)


def test_an_evaluation_asks_no_prompt_of_the_calibration(tmp_path):
    """The file of the calibration: its problems are drawn anew, and their twins are left out with them."""
    questions = [f"{word} {i}?" for i in range(6) for word in ("who", "WHO")]
    plan = job(tmp_path / "t.jsonl", *questions, n=4)
    used = {tuple(folded(p.question)) for p in plan.asked(MODEL).problems}
    file = made_from(plan.task.name, 4)
    found = fresh(plan.task, file, 2, 0, prompt=folded)
    assert len(found) == 2 and not used & {tuple(folded(p.question)) for p in found}
    with pytest.raises(ControllerError, match="only 2 distinct problems left of the 3"):
        fresh(plan.task, file, 3, 0, prompt=folded)


def test_an_evaluation_on_another_task_asks_no_prompt_of_the_saved_runs(tmp_path):
    """Whatever their answers and domains say there: the runs have the questions, and their twins are left out."""
    runs = [RunRecord(0, 0, "who?", 1, "stop", "", ""), RunRecord(1, 1, "Why?", 1, "stop", "", "", domain="a")]
    other = load_task(tasks(tmp_path / "u.jsonl", "WHO?", "why?", "How?", "when?"))
    found = fresh(other, made_from("t.jsonl", 2), 2, 0, prompt=folded, runs=runs)
    assert {p.question for p in found} == {"How?", "when?"}


def test_what_is_left_out_is_compared_with_nothing():
    seen = Distinct(folded)
    seen.leave_out(Problem("Who?", "5", "a"))
    assert not seen.add(Problem("who?", "4", "b"), "t:1") and seen.add(Problem("how?", "4"), "t:2")
    with pytest.raises(ControllerError, match="t:2, t:3: one problem with the answers"):
        seen.add(Problem("HOW?", "5"), "t:3")
