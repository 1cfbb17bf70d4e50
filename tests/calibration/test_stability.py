"""ctl stability: perturbations that keep the answer, paired conditions, and a job that goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reasonctl.calibration.cli.diagnostics.stability import in_words, numbers
from reasonctl.calibration.diagnostics.answers_file import Answered
from reasonctl.calibration.diagnostics.perturb import options, text, whitespace
from reasonctl.calibration.diagnostics.stability import CLEAN, FLOOR, Condition, Grid, rows
from reasonctl.calibration.tasks.graders import MATH, NUMBER
from reasonctl.calibration.tasks.problem import Problem
from reasonctl.controller import ControllerError
from support.ctl import ctl, goes_on

CHOICE = "Which freezes?\nA. fire\nB. water\nC. sand"


def said(*texts: str) -> list[Answered]:
    return [Answered(one, 10, "stop") for one in texts]


def test_white_space_keeps_the_problem_and_text_keeps_the_question() -> None:
    question = "48 a-9 b+6 c-3"
    spaced = whitespace(question, "0", 3, 1.0).question
    assert spaced == "48    a-9    b+6    c-3"
    assert Problem(spaced, None).id == Problem(question, None).id
    padded = text(question, "0", 4, 0.5).question
    assert padded.endswith("\n\n" + question)
    assert sum(any(c.isdigit() for c in one) for one in padded.split("\n")[0].split(". ")) == 2
    assert not any(c.isdigit() for c in text(question, "0", 4, 0.0).question.split("\n")[0])


def test_moved_options_are_graded_by_their_original_letter() -> None:
    """`water` is B, and C after a move by one: the letter C is right there, and B (now `fire`) isn't."""
    moved = options(CHOICE, "0", 1, 0.0)
    assert moved.question == "Which freezes?\nA. sand\nB. fire\nC. water" and moved.letters == {
        "A": "C",
        "B": "A",
        "C": "B",
    }
    grid = Grid("options", (1,), (0.0,), (0.0,))
    problems = [Problem(CHOICE, "B"), Problem(CHOICE + " ", "B")]
    (row,) = rows(grid, problems, [said("B", "C"), said("B", "B")], MATH)
    assert (row.compared.gained, row.compared.lost, row.compared.flips.rate) == (0, 1, 0.5)
    with pytest.raises(ControllerError, match="has none"):
        options("1 + 1 = ?", "0", 1, 0.0)


def test_a_vote_needs_no_single_run_to_be_right() -> None:
    """The first run of the perturbed question is wrong, and the vote of three is right."""
    grid = Grid("whitespace", (1,), (1.0,), (0.0,), votes=3)
    one, three = rows(grid, [Problem("1 + 1 = ?", "2")], [said("2", "2", "2", "3", "2", "2")], NUMBER)
    assert (one.votes, one.compared.lost, one.tokens) == (1, 1, 10)
    assert (three.votes, three.compared.lost, three.tokens) == (3, 0, 30)


def test_only_the_noise_floor_has_other_uniforms() -> None:
    grid = Grid("text", (1,), (0.0,), (0.0, 0.6), votes=2)
    assert [one.perturb for one in grid.conditions()] == [CLEAN, "text", CLEAN, FLOOR, "text"]
    asked = [grid.asks(Problem("q", "a"), index) for index in range(3)]
    runs = [[ask.run for ask in one] for one in asked]
    assert all(one[0:2] == one[2:4] == one[4:6] == one[8:10] for one in runs)
    assert not {run for one in runs for run in one[6:8]} & {run for one in runs for run in one[:6]}
    assert len({one[0] for one in runs}) == 3


def test_temperatures_are_compared_with_the_first() -> None:
    grid = Grid("temperature", (1,), (0.0,), (0.0, 1.0))
    pairs = [(one, grid.clean_of(one)) for one in grid.conditions()]
    assert (Condition(CLEAN, 1.0), Condition(CLEAN, 0.0)) in pairs


@pytest.mark.parametrize(
    ("grid", "why"),
    [
        (("seed", (1,), (0.0,), (0.0,)), "changes nothing at temperature 0"),
        (("temperature", (1,), (0.0,), (0.6,)), "two or more"),
        (("text", (0,), (0.0,), (0.0,)), "from 1"),
        (("text", (1,), (2.0,), (0.0,)), "from 0 to 1"),
        (("text", (1, 1), (0.0,), (0.0,)), "each once"),
        (("text", (1,), (0.0,), (float("nan"),)), "from 0 to 100"),
    ],
)
def test_a_grid_that_means_nothing_is_refused(grid, why: str) -> None:
    with pytest.raises(ControllerError, match=why):
        Grid(*grid)


def test_numbers_that_are_none_are_refused() -> None:
    assert numbers("--lengths", "1,4", whole=True) == [1, 4]
    with pytest.raises(ControllerError, match="--lengths is '1;4'"):
        numbers("--lengths", "1;4", whole=True)


def test_a_job_goes_on_where_it_was_stopped(capfd, tmp_path: Path) -> None:
    """A line of two is lost: one problem is asked again, and the page and the numbers are the same bytes."""
    out = tmp_path / "s.html"
    job = ["stability", "tiny", "--tasks", "tiny", "--perturb", "exit", "--temperatures", "0", "-n", "2"]
    job += ["--max-new-tokens", "160", "--workers", "1", "--out", str(out), "--json"]
    first, page = goes_on(capfd, job, out, Path(f"{out}.answers.jsonl"), "1 problems are there already")
    (row,) = json.loads(first)["rows"]
    assert row["perturb"] == "exit" and 0 <= row["influence"]["rate"] <= row["flips"]["rate"] <= 1
    assert row["tokens"] < 160 and b"<svg" in page


def test_answers_to_a_task_file_that_was_changed_are_not_graded(capfd, tmp_path: Path) -> None:
    """The file's name is the same, and the answers that are there answer other questions."""
    tasks, out = tmp_path / "t.jsonl", tmp_path / "s.html"
    job = ["stability", "tiny", "--tasks", str(tasks), "--perturb", "whitespace", "--lengths", "1", "--strengths", "1"]
    job += ["--temperatures", "0", "-n", "1", "--max-new-tokens", "4", "--workers", "1", "--out", str(out)]
    tasks.write_text(json.dumps({"question": "48 a-9", "answer": "39"}) + "\n")
    assert ctl(capfd, *job)[0] == 0
    out.unlink()
    tasks.write_text(json.dumps({"question": "48 a-8", "answer": "40"}) + "\n")
    code, _, err = ctl(capfd, *job)
    assert code == 2 and "another tasks_digest" in err


def test_flips_are_told_where_no_grade_changes() -> None:
    """A wrong answer becomes another wrong one: the influence rate is 0, and every answer flips."""
    grid = Grid("whitespace", (1,), (1.0,), (0.0,))
    first, flips, *_ = in_words(rows(grid, [Problem("1 + 1 = ?", "2")], [said("3", "4")], NUMBER))
    assert "0.0 % of problems" in first and "100.0 % (whitespace 1 x 1, T 0)" in flips
