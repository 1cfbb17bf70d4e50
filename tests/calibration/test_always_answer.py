"""Runs of a job that never end inside thinking: collected ones, and both arms of an evaluation."""

from __future__ import annotations

from dataclasses import replace

from reasonctl.calibration.runs.collect import settings_of
from reasonctl.calibration.runs.worker import AskedRun, collect_run, compare_runs
from reasonctl.calibration.tasks.sources import load_task
from reasonctl.controller import Cues, Markers
from reasonctl.probes.fixed_exits import NeverExit
from support.recipes import RECIPE

# So hot that `tiny` often ends the sequence inside its thinking.
PLAIN = replace(RECIPE, policy="temperature(2.5)", max_new_tokens=120)
ALWAYS = replace(PLAIN, always_answer=True)
TASK = load_task("tiny")
PROBLEMS = TASK.problems(16, stream=4)


def test_collected_runs_and_both_arms_go_on_to_an_answer():
    ended = 0
    for i, problem in enumerate(PROBLEMS):
        plain, always = (collect_run(recipe, i, problem.question) for recipe in (PLAIN, ALWAYS))
        inside = plain.finish == "stop" and "</think>" not in plain.text
        assert inside or always.text == plain.text
        if inside:
            ended += 1
            assert always.text.startswith(f"{plain.text}</think>\n") and len(always.text) > len(plain.text) + 9
            rule = NeverExit(cues=Cues(RECIPE.cues), suffix=RECIPE.suffix, markers=Markers(*RECIPE.markers))
            (arms,) = compare_runs(ALWAYS, [AskedRun(i, problem.question)], rule)
            assert arms.baseline.answer == arms.controlled.answer == always.answer
            assert "ended the sequence inside" in arms.baseline.why
    assert ended >= 3


def test_a_file_of_runs_says_it_and_older_files_are_those_without():
    model = RECIPE.load()
    plain, always = (settings_of(recipe, TASK, model, 4) for recipe in (PLAIN, ALWAYS))
    assert "always_answer" not in plain and "later_spans" not in plain
    assert always == plain | {"always_answer": True}
