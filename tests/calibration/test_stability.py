"""ctl stability: perturbations that keep the answer, paired conditions, and a job that goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reasonctl.calibration.cli.diagnostics.stability import in_words, numbers
from reasonctl.calibration.diagnostics.answers_file import Answered
from reasonctl.calibration.diagnostics.perturb import options, text, whitespace
from reasonctl.calibration.diagnostics.stability import CLEAN, FLOOR, Condition, Grid, check_options, rows
from reasonctl.calibration.tasks.graders import MATH, NUMBER
from reasonctl.calibration.tasks.problem import Problem
from reasonctl.controller import ControllerError
from support.ctl import ctl, goes_on

CHOICE = "Which freezes?\nA. fire\nB. water\nC. sand"


def said(*texts: str) -> list[Answered]:
    return [Answered(one, 10, "stop") for one in texts]


def test_white_space_keeps_the_problem_and_text_keeps_the_question() -> None:
    question = "48 a-9 b+6 c-3"
    spaced = whitespace(question, "0", 3, 1.0)
    assert spaced == "48    a-9    b+6    c-3"
    assert Problem(spaced, None).id == Problem(question, None).id
    padded = text(question, "0", 4, 0.5)
    assert padded.endswith("\n\n" + question)
    assert sum(any(c.isdigit() for c in one) for one in padded.split("\n")[0].split(". ")) == 2
    assert not any(c.isdigit() for c in text(question, "0", 4, 0.0).split("\n")[0])


def test_moved_options_are_graded_by_their_original_letter() -> None:
    """`water` is B, and C after a move by one: the letter C is right there, and B (now `fire`) isn't."""
    assert options(CHOICE, "0", 1, 0.0) == "Which freezes?\nA. sand\nB. fire\nC. water"
    grid = Grid("options", (1,), (0.0,), (0.0,))
    problems = [Problem(CHOICE, "B"), Problem(CHOICE + " ", "B")]
    (row,) = rows(grid, problems, [said("B", "C"), said("B", "B")], MATH)
    assert (row.compared.gained, row.compared.lost, row.compared.flips.rate) == (0, 1, 0.5)
    with pytest.raises(ControllerError, match="has none"):
        options("1 + 1 = ?", "0", 1, 0.0)


@pytest.mark.parametrize("gold", ["B", "water"])
@pytest.mark.parametrize(
    ("clean", "after"),
    [
        ("The answer is water.", "The answer is water."),
        ("Option B", "Option C"),
        ("The answer is **B. water**.", "The answer is **C. water**."),
        ("It is (B).", "water"),
    ],
)
def test_an_answer_that_stays_is_no_influence_however_it_is_worded(gold, clean, after) -> None:
    """Clean answers are read as moved ones are: a text in place of a letter isn't a change."""
    (row,) = rows(Grid("options", (1,), (0.0,), (0.0,)), [Problem(CHOICE, gold)], [said(clean, after)], MATH)
    assert row.compared.clean_accuracy.rate == row.compared.accuracy.rate == 1
    assert row.compared.flips.rate == row.unread == 0


def test_options_that_move_alike_and_answers_that_are_none_are_refused() -> None:
    check_options([Problem(CHOICE, "B"), Problem(CHOICE, "sand")], (1, 2))
    with pytest.raises(ControllerError, match="among 3 options some of these moves are the same; .* from 1 to 2"):
        check_options([Problem(CHOICE, "B")], (1, 4))
    with pytest.raises(ControllerError, match="'ice', which is none of its options"):
        check_options([Problem(CHOICE, "ice")], (1,))


def test_cut_and_unread_answers_are_told() -> None:
    """Nothing differs, and that says nothing: half of the runs were cut, and no answer can be read."""
    answers = [[Answered("Let me", 8, finish) for finish in ("length", "stop")] for _ in range(2)]
    found = rows(Grid("whitespace", (1,), (1.0,), (0.0,)), [Problem("1 + 1 = ?", "2")] * 2, answers, NUMBER)
    assert (found[0].truncated, found[0].unread) == (0.0, 1.0)
    assert "100.0 % of the answers to a condition state nothing" in in_words(found)[-1]
    answers = [[Answered("2", 8, finish) for finish in ("stop", "length")] for _ in range(2)]
    found = rows(Grid("whitespace", (1,), (1.0,), (0.0,)), [Problem("1 + 1 = ?", "2")] * 2, answers, NUMBER)
    assert "100.0 % of the runs of a condition were cut: raise --max-new-tokens" in in_words(found)[-1]
    assert found[0].unread == 0 and len(in_words(found)) == 4


def test_influence_is_tested_against_another_seeds_problem_by_problem() -> None:
    """Six of eight grades change under the perturbation, and none with another seed; then the two change places."""
    grid, problems = Grid("text", (1,), (0.0,), (0.6,)), [Problem("1 + 1 = ?", "2")] * 8
    right, wrong = "2", "3"
    answers = [said(right, right, wrong if i < 6 else right) for i in range(8)]  # clean, seed, text
    seed, text_row = rows(grid, problems, answers, NUMBER)
    assert seed.above_floor is None and text_row.above_floor == 0.5**6
    assert "changes 0.0 %; that the perturbation changes more has p = 0.016" in in_words([seed, text_row])[0]
    _, other = rows(grid, problems, [said(a.text, c.text, b.text) for a, b, c in answers], NUMBER)
    assert other.above_floor == 1.0
    exits = rows(Grid("exit", (1,), (0.0,), (0.6,)), problems, answers, NUMBER)
    assert [row.above_floor for row in exits] == [None, None]  # an exit shares the clean run's uniforms
    assert "Another seed" not in in_words(exits)[0]


def test_votes_are_judged_where_they_can_act() -> None:
    """At temperature 0 all runs of a vote are the same, and another seed is no perturbation."""
    grid = Grid("text", (1,), (0.0,), (0.0, 0.6), votes=3)
    same, lost = said("2", "2", "2"), said("3", "2", "2")
    answers = [[*same, *lost, *same, *lost, *lost]]  # clean, text; clean, seed, text
    words = in_words(rows(grid, [Problem("1 + 1 = ?", "2")], answers, NUMBER))
    assert any("100.0 % for one run, 0.0 % for a vote of 3; right 0.0 % and 100.0 %" in one for one in words)
    cold = Grid("text", (1,), (0.0,), (0.0,), votes=3)
    assert not any("vote" in one for one in in_words(rows(cold, [Problem("1 + 1 = ?", "2")], [same + lost], NUMBER)))


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


@pytest.mark.parametrize(
    ("perturb", "option"),
    [("seed", "--lengths"), ("exit", "--strengths"), ("temperature", "--lengths"), ("options", "--strengths")],
)
def test_sizes_that_a_perturbation_doesnt_have_are_refused(capfd, tmp_path: Path, perturb, option) -> None:
    job = ["stability", "tiny", "--tasks", "tiny", "--perturb", perturb, option, "1", "--out", str(tmp_path / "s.html")]
    code, _, err = ctl(capfd, *job)
    assert code == 2 and f"{option} means nothing to --perturb {perturb}" in err


def test_a_job_goes_on_where_it_was_stopped(capfd, tmp_path: Path) -> None:
    """A line of two is lost: one problem is asked again, and the page and the numbers are the same bytes."""
    out = tmp_path / "s.html"
    job = ["stability", "tiny", "--tasks", "tiny", "--perturb", "exit", "--temperatures", "0", "-n", "2"]
    job += ["--max-new-tokens", "160", "--workers", "1", "--out", str(out), "--json"]
    first, page = goes_on(capfd, job, out, Path(f"{out}.answers.jsonl"), "1 problems are there already")
    (row,) = json.loads(first)["rows"]
    assert row["perturb"] == "exit" and 0 <= row["influence"]["rate"] <= row["flips"]["rate"] <= 1
    assert (row["clean_tokens"], row["tokens"], row["accuracy"]["rate"], row["flips"]["rate"]) == (97, 24, 1, 0)
    assert b"<svg" in page


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


@pytest.mark.parametrize("backend", ["llama", "hf"])
def test_a_batch_that_does_not_fit_is_refused_before_any_run(capfd, tmp_path: Path, monkeypatch, backend) -> None:
    """By the longest question as it is asked, not as the task has it. A single run isn't asked about."""
    place = {"llama": "llama.load", "hf": "hf.engine"}[backend]
    out = tmp_path / "s.html"
    job = ["stability", "tiny", "--tasks", "tiny", "--perturb", "text", "--lengths", "1", "--strengths", "0", "-n", "1"]
    job += ["--temperatures", "0", "--max-new-tokens", "4", "--workers", "1", "--backend", backend, "--out", str(out)]
    monkeypatch.setattr(f"reasonctl.backends.{place}.free_memory", lambda: 1000)
    code, _, err = ctl(capfd, *job, "--batch", "3")
    assert code == 2 and "memory" in err and not Path(f"{out}.answers.jsonl").exists()
    assert ctl(capfd, *job, "--batch", "1")[0] == 0
