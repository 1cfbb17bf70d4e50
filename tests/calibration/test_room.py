"""A question that is too long for the model is left out, counted and named, and ends no job."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from reasonctl.calibration.pages.wording import facts
from reasonctl.calibration.runs.making import PreparedRun, run_window
from reasonctl.calibration.runs.room import LEFT_OUT, SHORTENED, with_room
from reasonctl.calibration.tasks.problem import Problem
from reasonctl.calibration.tasks.tiny import fresh_problems
from reasonctl.controller import Controller, ControllerError
from support.ctl import ctl
from support.probe_files import card
from support.recipes import RECIPE
from support.toy_models import writing

MODEL = writing([b"4"], context=100)
"""Its prompts have a token for each character."""


def questions(*sizes: int) -> list[Problem]:
    return [Problem("?" * size, None) for size in sizes]


def test_a_run_and_its_prompt_fit_the_context():
    asked = with_room(MODEL, questions(40, 41, 90, 5), 60)
    assert [len(p.question) for p in asked.problems] == [40, 5]
    assert [len(p.question) for p in asked.left_out] == [41, 90]
    message = asked.message(lambda problem: f"t:{len(problem.question)}")
    assert message is not None and "2 of 4 questions are left out" in message and "(t:41, t:90)" in message
    assert "more than 5%" in message
    assert with_room(MODEL, questions(40), 60).message(repr) is None
    many = with_room(MODEL, questions(*range(1, 30), *range(41, 49)), 60).message(lambda p: "t")
    assert many is not None and "(t, t, t, t, t and 3 more)" in many
    one = with_room(MODEL, questions(*range(1, 30), 41), 60).message(repr)
    assert one is not None and "1 of 30 questions is left out" in one and "more than" not in one


def test_no_question_with_room_is_an_error_with_the_remedy():
    with pytest.raises(ControllerError, match="none of 2 .* 100 tokens: the shortest prompt has 41 .* 60 more; lower"):
        with_room(MODEL, questions(41, 50), 60)


def test_three_quarters_of_the_context_are_enough_for_any_run():
    """A job with a limit that no run reaches is no job of questions that are too long."""
    asked = with_room(MODEL, questions(25, 26), 5000)
    assert [len(p.question) for p in asked.problems] == [25]
    recipe = replace(RECIPE, suffix="4", policy="greedy", max_new_tokens=5000)
    assert recipe.call(MODEL, "?" * 25).max_new_tokens == 100 - 25 - 1
    assert replace(recipe, max_new_tokens=74).call(MODEL, "?" * 25).max_new_tokens == 74


def test_a_job_says_which_runs_the_context_ends_before_their_limit():
    asked = with_room(MODEL, questions(25, 10, 26), 90, suffix="4")
    assert asked.report() == {LEFT_OUT: 1, SHORTENED: 2}
    left_out, shortened = asked.messages(repr)
    assert "1 of 3 questions is left out" in left_out
    assert "2 of 2 runs end before --max-new-tokens 90: the context of 100 leaves them 74 to 89; lower it" in shortened
    assert "to 74" in shortened
    exact = with_room(MODEL, questions(25, 10), 74, suffix="4")
    assert exact.report() == {} and exact.messages(repr) == []
    assert with_room(MODEL, questions(25, 10), 75, suffix="4").report() == {SHORTENED: 1}  # the suffix takes one


def test_a_run_says_that_the_context_ends_it_before_its_limit():
    recipe = replace(RECIPE, suffix="4", policy="greedy")
    for most, said in ((74, []), (75, ["at most 74 new tokens and not 75: the context has no room for more"])):
        call = replace(recipe, max_new_tokens=most).call(MODEL, "?" * 25)
        trace = run_window(MODEL, [PreparedRun(Controller(), call)], 1)[0].trace
        assert [one.partition(";")[0] for one in trace.warnings] == said


def task(path: Path, long: int) -> Path:
    """40 problems, of which one at each 40 / long is too long."""
    lines = []
    for i, problem in enumerate(fresh_problems(40, 3)):
        extra = " a+3" * 2000 if i % (40 // long) == 0 else ""
        lines.append(json.dumps({"question": problem.question + extra, "answer": problem.answer}))
    path.write_text("\n".join(lines))
    return path


def test_a_long_question_ends_no_job(tmp_path, capfd):
    job = ["calibrate", "tiny", "--tasks", str(task(tmp_path / "t.jsonl", 1)), "--out", str(tmp_path / "p.safetensors")]
    short = ["-n", "40", "--fit", "20", "--max-new-tokens", "300", "--workers", "1", "--no-report", "--json"]
    code, out, said = ctl(capfd, *job, *short)
    assert code == 0 and json.loads(out.splitlines()[-1])["complete"], said
    before = said[: said.index("one run took")]
    assert "1 of 40 questions is left out" in before and "(line 1 of " in before and "t.jsonl')" in before
    assert "39 runs on t.jsonl" in before
    code, out, _ = ctl(capfd, "inspect", job[-1], "--json")
    found = json.loads(out.splitlines()[-1])["card"]
    assert sum(found["runs"].values()) == 39 and found["report"][LEFT_OUT] == 1
    # The same command resumes, and an evaluation knows what the calibration asked.
    (tmp_path / "p.safetensors").unlink()
    code, _, said = ctl(capfd, *job, *short)
    assert code == 0 and "resuming: 39 of 39" in said
    code, _, said = ctl(capfd, "eval", "tiny", "--probe", job[-1], "-n", "1", "--tasks", str(tmp_path / "t.jsonl"))
    assert code == 2 and "has only 0 distinct problems left" in said


@pytest.mark.slow
def test_an_evaluation_leaves_long_questions_out_too(tmp_path, capfd):
    path = task(tmp_path / "t.jsonl", 4)
    command = ["eval", "tiny", "--tasks", str(path), "-n", "40", "--no-baselines", "--workers", "1", "--json"]
    code, out, said = ctl(capfd, *command)
    result = json.loads(out.splitlines()[-1])
    assert code == 0 and (result["n"], result[LEFT_OUT]) == (36, 4)
    assert "4 of 40 questions are left out" in said and "more than 5%" in said


def test_a_card_says_what_its_population_lacks():
    whole, part = card(), card(report={"auc": 0.9, LEFT_OUT: 3})
    assert "left out" not in "".join(facts(whole).values())
    assert facts(part)["runs"] == f"{facts(whole)['runs']}; 3 questions too long for the context left out"
    assert facts(part)["fit"] == facts(whole)["fit"]
    ended = facts(card(report={"auc": 0.9, SHORTENED: 4}))
    assert ended["runs"] == f"{facts(whole)['runs']}; the context had room for fewer new tokens in 4 of all"
    assert ended["fit"] == facts(whole)["fit"]
