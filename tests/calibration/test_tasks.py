"""Tasks and graders."""

from __future__ import annotations

import json

import pytest

from reasonctl.calibration.tasks.graders import MATH, NUMBER, load_grader
from reasonctl.calibration.tasks.problem import Problem
from reasonctl.calibration.tasks.sources import load_task
from reasonctl.calibration.tasks.texts import read
from reasonctl.controller import ControllerError


def test_streams_are_reproducible_distinct_and_excludable():
    for name in ("tiny", "reasoning-gym:chain_sum,max_terms=2,max_digits=1,min_digits=1"):
        task = load_task(name)
        first = task.problems(20, stream=2)
        assert first == load_task(name).problems(25, stream=2)[:20]
        assert len({p.id for p in first}) == 20
        assert task.problems(20, stream=3) != first
        rest = task.problems(20, stream=2, exclude={p.id for p in first[:10]})
        assert rest[:10] == first[10:] and not {p.id for p in rest} & {p.id for p in first[:10]}


def test_streams_share_no_problems_but_by_chance():
    """reasoning-gym's own seeds do: entry i of seed s is entry i - 1 of seed s + 1."""
    task = load_task("reasoning-gym:chain_sum,min_terms=4,max_terms=6,min_digits=3,max_digits=5")
    streams = [{p.id for p in task.problems(40, stream=stream)} for stream in range(6)]
    assert len(set().union(*streams)) == 6 * 40


def test_a_file_is_drawn_without_repeats_and_runs_out(tmp_path):
    path = tmp_path / "t.jsonl"
    lines = [{"question": f"{i % 7}+1?", "answer": str(i % 7 + 1)} for i in range(20)]
    path.write_text("\n".join(map(json.dumps, lines)))
    task = load_task(str(path))
    calibration = task.problems(4, stream=0)
    evaluation = task.problems(3, stream=1, exclude={p.id for p in calibration})
    assert len({p.id for p in calibration + evaluation}) == 7
    with pytest.raises(ControllerError, match="only 3 distinct problems left of the 4"):
        task.problems(4, stream=1, exclude={p.id for p in calibration})


def test_answers_may_be_missing_where_none_is_needed(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text('{"question": "a"}\n')
    assert load_task(str(path), gold=False).problems(1, stream=0)[0].answer is None
    with pytest.raises(ControllerError, match="--mode disagree"):
        load_task(str(path))


def test_line_ends_of_unicode_stand_in_a_question(tmp_path):
    path = tmp_path / "t.jsonl"
    question = "a\u2028b\u2029c\x85d\x0be"
    line = json.dumps({"question": question, "answer": 0.5}, ensure_ascii=False)
    path.write_bytes(b"\xef\xbb\xbf" + line.encode() + b"\r\n")
    (problem,) = load_task(str(path)).problems(1, stream=0)
    assert (problem.question, problem.answer) == (question, "0.5")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"question": "a", "answer": ["1"]}', "'answer' in line 1 of .*t.jsonl.* is a list of 1 values"),
        (b'{"question": "a", "answer": ""}', "a text that isn't empty"),
        (b'{"question": "a", "answer": NaN}', "holds NaN"),
        (b'{"question": "a", "answer": 1e999}', "must be a number"),
        (b'{"question": "a", "answer": {"x": 1}}', "an object of 1 fields"),
        (b'{"question": "a", "answer": true}', "is True"),
        (b'{"question": "a", "answer": ' + b"9" * 5000 + b"}", "whole number of 5,000 digits"),
        (b'{"question": "  ", "answer": 1}', "a text that isn't empty"),
        (b'{"question": 3, "answer": 1}', "it must be a text"),
        (b'{"answer": 1}', "'question' is missing"),
        (b'{"question": "a", "answer": 1, "domain": 3}', "'domain' in line 1"),
        (b"[" * 90_000, "brackets deep"),
        ('{"question": "\u00e9", "answer": 1}'.encode("latin-1"), "not UTF-8"),
    ],
)
def test_a_line_that_is_no_problem_is_named(tmp_path, line, message):
    path = tmp_path / "t.jsonl"
    path.write_bytes(line + b"\n")
    with pytest.raises(ControllerError, match=message) as caught:
        load_task(str(path))
    assert "\n" not in str(caught.value) and "line 1 of" in str(caught.value) and len(str(caught.value)) < 400


def test_texts_are_read_line_by_line_or_whole(tmp_path):
    lines, plain = tmp_path / "a.jsonl", tmp_path / "b.txt"
    lines.write_text(json.dumps({"text": "a\u2028b"}, ensure_ascii=False) + "\n", encoding="utf-8")
    plain.write_text("c\nd", encoding="utf-8")
    assert list(read([str(lines), str(plain)])) == ["a\u2028b", "c\nd"]
    for content, message in ((b"\xe9t\xe9", "not UTF-8"), (b"", "")):
        plain.write_bytes(content)
        lines.write_bytes(content or b'{"text": 3}')
        for path in (plain, lines) if content else (lines,):
            with pytest.raises(ControllerError, match=message or "'text' in line 1"):
                list(read([str(path)]))


@pytest.mark.parametrize(
    ("text", "gold", "right"),
    [
        ("The answer is 74.", "74", True),
        ("74 is wrong. The answer is 75.", "74", False),
        ("The answer is 1,074.0", "1074", True),
        ("no answer", "74", False),
        ("", "74", False),
        ("The answer is 7.", "74", False),
    ],
)
def test_numbers(text, gold, right):
    assert NUMBER.right(text, Problem("q", gold)) is right


@pytest.mark.parametrize(
    ("text", "gold", "right"),
    [
        (r"so \boxed{\frac{1}{2}}", "0.5", True),
        (r"\boxed{3} then \boxed{4}", "3", False),  # any candidate in the text would do for a lenient grader
        (r"\boxed{5\sqrt{2}}", r"3\sqrt{2}", False),  # nor is the last number enough
        ("The answer is (5,3).", "(2,3)", False),
        ("The answer is 2x+1", "1+2x", True),
        ("", "3", False),
    ],
)
def test_mathematics(text, gold, right):
    assert MATH.right(text, Problem("q", gold)) is right


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("chain_sum,k=x", "chain_sum has no setting 'k'; known: .*min_terms, max_terms"),
        ("chain_sum,size=4", "chain_sum has no setting 'size'; known:"),
        ("chain_sun", "has no 'chain_sun'; did you mean chain_sum"),
        ("chain_sum,min_terms=x", "can't be made"),
    ],
)
def test_a_task_of_reasoning_gym_that_is_not_there_is_refused_with_the_names(spec, words):
    with pytest.raises(ControllerError, match=words):
        load_task(f"reasoning-gym:{spec}").problems(1, stream=0)


def test_reasoning_gym_scores_with_its_own_scorer():
    task = load_task("reasoning-gym:chain_sum")
    problem = task.problems(1, stream=0)[0]
    assert task.grader.right(f"The final answer is {problem.answer}.", problem)
    assert not task.grader.right("The final answer is 1000000.", problem)


def test_own_graders(tmp_path, monkeypatch):
    (tmp_path / "my_grader.py").write_text("def ends(question, gold, text):\n    return text.endswith(gold)\n")
    monkeypatch.syspath_prepend(tmp_path)
    grader = load_grader("my_grader:ends")
    assert grader.right("it is a", Problem("q", "a")) and not grader.right("a it is", Problem("q", "a"))
    for broken in ("operator", "no_such_module:f", "operator:nope"):
        with pytest.raises(ControllerError, match="--grader"):
            load_grader(broken)


def test_two_texts_without_an_answer_are_not_the_same():
    assert not NUMBER.same("none", "none") and NUMBER.same("The answer is 4.", "so: 4")
