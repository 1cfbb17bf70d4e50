"""Grading as a person would, and which problems are one. Its limits are tested in test_grading_limits.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reasonctl.calibration.tasks.graders import MATH, is_right
from reasonctl.calibration.tasks.problem import Distinct, Problem
from reasonctl.calibration.tasks.sources import load_task
from reasonctl.controller import ControllerError
from reasonctl.controller.thinking.answers import stated_answer

TABLES = sorted(Path(__file__).parent.glob("grading_pairs*.json"))
KINDS = {
    kind: [(*pair, "q")[:4] for pair in pairs]
    for table in TABLES
    for kind, pairs in json.loads(table.read_text(encoding="utf-8")).items()
}
"""By kind: gold answer, text, whether it is right, and a question, which matters to few."""
PAIRS = [pair for pairs in KINDS.values() for pair in pairs]


@pytest.mark.parametrize("kind", KINDS)
def test_a_person_would_agree(kind: str) -> None:
    graded = [(*pair, MATH.right(pair[1], Problem(pair[3], pair[0]))) for pair in KINDS[kind]]
    assert [one for one in graded if one[-1] is not one[2]] == []


@pytest.mark.parametrize(
    ("text", "gold", "question", "right"),
    [
        ("The final answer is 22 + 44 + 78.", "144", "Work out 22 + 44 + 78 = step by step.", False),
        (r"\boxed{22 + 44 + 78}", "144", "Work out 22 + 44 + 78 = step by step.", False),
        ("It is 22+44+78", "144", "Work out 22 + 44 + 78 = step by step.", False),
        ("22 + 44 + 78 = 144", "144", "Work out 22 + 44 + 78 = step by step.", True),
        (r"\boxed{66 + 78}", "144", "Work out 22 + 44 + 78 = step by step.", True),
        ("x + x", "2x", "Simplify x + x.", False),
        ("x - 1", "x-1", "Is it x + 1 or x - 1?", True),
        (r"\boxed{\frac{1}{2}}", "0.5", "Which is larger, 1/2 or 1/3?", True),
    ],
)
def test_a_formula_of_the_question_is_no_answer(text: str, gold: str, question: str, right: bool) -> None:
    """A model that only restates the problem would be right at its first cue."""
    assert is_right(text, gold, question) is right


def votes_together(gold: str, text: str, question: str) -> bool:
    """A text that states the gold answer as it is and the other text are one class, whichever comes first."""
    answers = [stated_answer(gold) or gold, stated_answer(text)]
    for ordered in (answers, answers[::-1]):
        classes = MATH.classes(question)
        if [classes.add(answer) for answer in ordered] != [0, 0]:
            return False
    return True


def test_a_vote_never_splits_equal_answers() -> None:
    """All pairs that a person calls equal vote together. Of the others few do: grading is looser for plainer golds."""
    stated = [(gold, text, right, question) for gold, text, right, question in PAIRS if stated_answer(text)]
    split = [one for one in stated if one[2] and not votes_together(one[0], one[1], one[3])]
    wrong = [one for one in stated if not one[2]]
    merged = [one for one in wrong if votes_together(one[0], one[1], one[3])]
    assert not split and len(merged) <= 0.02 * len(wrong), (split, merged)


def test_a_third_of_the_pairs_are_wrong_answers() -> None:
    wrong = sum(not pair[2] for pair in PAIRS)
    assert len(PAIRS) >= 2000 and 3 * wrong >= len(PAIRS)


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("5", "The answer is 5 people.", True),
        ("The answer is 5 people.", "5", True),
        ("So she sold 72 clips in total.", "Altogether, 72 clips were sold.", True),
        (r"\boxed{\frac{x}{2}}", "x/2", True),
        ("The answer is 5 people.", "6", False),
        ("5 or 6", "5", False),
        ("", "", False),
    ],
)
def test_a_worded_answer_is_the_same_as_a_bare_one(a: str, b: str, same: bool) -> None:
    assert MATH.same(a, b) is same


def test_one_prompt_is_one_problem(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    lines = [("1 + 1 = ?", "2"), (" 1 + 1\n= ?  ", "2.0"), ("2 + 2 = ?", "4"), ("2 +\u00a02 = ?", "The sum is 4")]
    path.write_text("\n".join(json.dumps({"question": q, "answer": a}) for q, a in lines), encoding="utf-8")
    task = load_task(str(path))
    found = task.problems(2, stream=0)
    assert {problem.answer for problem in found} == {"2", "4"}
    with pytest.raises(ControllerError, match="only 2 distinct"):
        task.problems(3, stream=0)
    for twin in (
        "Was kostet ein Cafe\u0301?",
        "Was\u3000kostet ein\r\nCafé?\n",
        "\ufeffWas kostet ein\u200b Caf\u200bé?",
    ):
        assert Problem(twin, None).id == Problem("Was kostet ein Café?", None).id != Problem("was kostet", None).id
    assert Problem("1  + 1 = ?\n", None).id == Problem("1 + 1 = ?", None).id != Problem("1 + 1 = ? 2", None).id


def test_a_question_with_two_answers_names_its_lines(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    lines = [("1 + 1 = ?", "2", "sums"), ("2 + 2 = ?", "4", "sums"), ("1 +  1 = ?", "3", "sums")]
    records = [json.dumps({"question": q, "answer": a, "domain": d}) for q, a, d in lines]
    path.write_text("\n".join(records))
    with pytest.raises(
        ControllerError,
        match=r"line 1 of '.*t\.jsonl', line 3 of '.*t\.jsonl': one problem with the answers '2' and '3'",
    ):
        load_task(str(path))
    path.write_text("\n".join([*records[:2], records[0].replace("sums", "other")]))
    with pytest.raises(
        ControllerError, match=r"line 1 of '.*t\.jsonl', line 3 of '.*t\.jsonl': one problem with the domains"
    ):
        load_task(str(path))


def test_problems_with_the_same_tokens_are_the_same(tmp_path: Path) -> None:
    """A template or a tokenizer may drop what the texts differ in: here it is case."""

    def prompt(question: str) -> list[int]:
        return [ord(character) for character in question.casefold()]

    path = tmp_path / "t.jsonl"
    questions = ["How many?", "how many?", "how much?", "Who?"]
    path.write_text("\n".join(json.dumps({"question": q, "answer": "5"}) for q in questions))
    task = load_task(str(path))
    assert len(task.problems(3, stream=0, prompt=prompt)) == 3 and len(task.problems(4, stream=0)) == 4
    with pytest.raises(ControllerError, match="only 3 distinct"):
        task.problems(4, stream=0, prompt=prompt)
    rest = task.problems(2, stream=1, prompt=prompt, apart=[Problem("HOW MANY?", "5")])
    assert {problem.question for problem in rest} == {"how much?", "Who?"}
    path.write_text("\n".join(json.dumps({"question": q, "answer": a}) for q, a in zip(questions, "5678", strict=True)))
    with pytest.raises(
        ControllerError, match=r"line \d of '.*t\.jsonl', line \d of '.*t\.jsonl': one problem with the answers"
    ):
        load_task(str(path)).problems(3, stream=0, prompt=prompt)


def test_the_first_of_the_same_problems_is_kept() -> None:
    seen = Distinct()
    assert [seen.add(Problem(q, a), "here") for q, a in (("a b", "1"), ("a  b", "1"), ("b", None))] == [
        True,
        False,
        True,
    ]
