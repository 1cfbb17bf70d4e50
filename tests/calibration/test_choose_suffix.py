"""The choice of a suffix: candidates by model and task, and the one whose answers are whole, right and short."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from reasonctl.calibration.cli.recipes import closing_of
from reasonctl.calibration.fitting.choose_suffix import (
    ClosingCounts,
    boxed,
    candidates,
    choose,
    choose_suffix,
    count,
    lined,
    plain,
)
from reasonctl.calibration.runs.closings import TriedAnswer, TriedRun
from reasonctl.calibration.runs.worker import one_run
from reasonctl.calibration.tasks.graders import NUMBER
from reasonctl.calibration.tasks.problem import Problem
from reasonctl.calibration.tasks.sources import load_task
from reasonctl.controller import Closing, ControllerError, Cues, Markers, Thinking
from reasonctl.controller.thinking import Format, read_template
from reasonctl.probes.exit import FixedExit
from support.recipes import RECIPE

BARE = read_template(None)


def marked(suffix: str, close: str = "</think>") -> Format:
    return Format(Markers("<think>", close), suffix, "prompt", "", "rendering")


FORMATS = [
    marked("</think>\n\n"),
    marked("</think>\n"),
    marked("</think>"),
    marked("<|end|><|start|>assistant<|channel|>final<|message|>", "<|end|>"),
]


@pytest.mark.parametrize("found", FORMATS, ids=lambda found: found.suffix)
def test_every_candidate_follows_the_templates_own_suffix(found):
    for answers in (["A", " C ", "(B)"], ["12", "x = 3"], ["it rains because " + 8 * "of this "], []):
        made = candidates(found, answers)
        assert len(set(made)) == len(made) and made[-1] == Closing(found.suffix)
        for closing in made:
            Thinking(found.markers, closing.suffix)  # raises unless it holds the closing marker exactly once
            assert closing.suffix.startswith(found.suffix)
            asked = closing.suffix.removeprefix(found.suffix)
            assert not asked or (found.suffix + asked)[-len(asked) - 1] in "\n>" and not asked.startswith("The</")
    assert boxed(marked("</think>")).suffix == "</think>\n\nThe final answer is \\boxed{"
    assert boxed(FORMATS[3]).suffix.endswith("<|message|>The final answer is \\boxed{")


def test_the_task_says_what_may_be_asked():
    letters, short, open_text = (candidates(FORMATS[0], a) for a in (["A", "J"], ["A", "K"], [9 * "word "] * 3))
    assert [one.answer_ends for one in letters] == ["line", "box", "model"] and letters[0].suffix.endswith("Answer:")
    assert [one.answer_ends for one in short] == ["box", "line", "model"]
    assert open_text == (plain(FORMATS[0]),)
    assert candidates(FORMATS[0], ["7"] * 19 + [9 * "word "]) == short  # one answer in twenty is long
    assert [one.suffix for one in candidates(BARE, ["7"])] == [
        "\n\nThe final answer is \\boxed{",
        "\n\nThe final answer is",
        "\n\nThe final answer is",
    ]


A, B, C = (Closing(text) for text in "abc")


@pytest.mark.parametrize(
    ("counts", "chosen"),
    [
        ([(A, 100, 60, 60, 900), (B, 100, 99, 20, 900), (C, 100, 90, 80, 100)], B),  # whole answers come first
        ([(A, 100, 99, 20, 100), (B, 100, 98, 30, 900), (C, 100, 90, 80, 100)], B),  # nearly as whole, more are right
        ([(A, 100, 99, 30, 900), (B, 100, 98, 30, 800), (C, 100, 99, 29, 10)], B),  # as right, and cheaper
        ([(A, 100, 99, 30, 900), (B, 50, 49, 15, 600), (C, 0, 0, 0, 0)], A),  # shares, not counts
    ],
)
def test_the_choice_goes_by_whole_then_right_then_cheap(counts, chosen):
    made = [ClosingCounts(*one) for one in counts]
    for _ in range(6):
        random.Random(0).shuffle(made)
        found = choose(made)
        assert found.closing == chosen and found.counts == tuple(made)
    assert "99 of 100 complete, 20 right, 9.0 tokens each" in ClosingCounts(B, 100, 99, 20, 900).line


def test_without_a_cue_the_first_candidate_stands():
    found = choose([ClosingCounts(one, 0, 0, 0, 0) for one in (B, A)])
    assert found.closing == B and found.untried
    assert not choose([ClosingCounts(B, 0, 0, 0, 0), ClosingCounts(A, 1, 0, 0, 9)]).untried


def test_a_trial_keeps_the_deadline(monkeypatch):
    """It ends after the run under way, without a choice; a deadline that comes after the last run changes nothing."""
    made, clock = [], [0.0]

    def tries(recipe, closings, window):
        made.extend(window)
        clock[0] += 10 * len(window)
        return [TriedRun("5", (TriedAnswer(A, "5", True, 4),)) for _ in window]

    monkeypatch.setattr("reasonctl.calibration.fitting.choose_suffix.try_closings", tries)
    monkeypatch.setattr("reasonctl.calibration.fitting.choose_suffix.time.monotonic", lambda: clock[0])
    runs = [(i, Problem(f"{i}", "5")) for i in range(4)]
    assert choose_suffix(RECIPE, (A, B), runs, NUMBER, deadline=15.0) is None and len(made) == 2
    assert choose_suffix(RECIPE, (A, B), runs, NUMBER, deadline=clock[0] + 35.0).closing == A


def test_answers_are_counted_by_closing_and_without_gold_by_the_full_run():
    run = TriedRun(
        "It is 5.", (TriedAnswer(A, "5", True, 4), TriedAnswer(B, "so 6", False, 9), TriedAnswer(A, "6", True, 3))
    )
    for answer, right in (("6", [1, 1]), (None, [1, 0])):
        counts = count([A, B, C], [(run, Problem("?", answer))], NUMBER)
        assert [(one.tried, one.complete, one.tokens) for one in counts] == [(2, 2, 7), (1, 0, 9), (0, 0, 0)]
        assert [one.right for one in counts[:2]] == right


def test_the_bundled_model_keeps_its_own_suffix():
    """Its short answers are whole and right as they come; and what is counted is what exits at these cues give."""
    model, found = RECIPE.load(), read_template(RECIPE.load().template)
    closings = (plain(found), Closing("</think>\nWait"), Closing("</think>\n{", "box"))
    problems = list(enumerate(load_task("tiny").problems(4, stream=6)))
    chosen = choose_suffix(replace(RECIPE, batch=3), closings, problems, NUMBER)
    assert chosen.closing == plain(found) == Closing(RECIPE.suffix)
    tokens = tried = right = 0
    for i, problem in problems:
        for k in (0, 1, 3, 7):
            rule = FixedExit(index=k, cues=Cues(RECIPE.cues), suffix=RECIPE.suffix, markers=Markers(*RECIPE.markers))
            trace, _ = one_run(RECIPE, model, i, problem.question, rule)
            if trace.exit is not None:
                answer = trace.tokens[trace.forced[0] :]
                tokens, tried = tokens + len(answer), tried + 1
                right += NUMBER.right(model.tokenizer.decode(answer).partition("</think>")[2], problem)
    assert chosen.counts[0] == ClosingCounts(closings[0], tried, tried, right, tokens) and tried > 6


def test_suffix_and_answer_of_the_command_line():
    found = FORMATS[0]
    own, box = r"</think>\nSo", r"</think>\n\boxed{"
    assert closing_of(found, None, None) == closing_of(found, None, "natural") == plain(found)
    assert closing_of(found, None, "box") == boxed(found) and closing_of(found, None, "line") == lined(found)
    assert closing_of(found, own, None) == Closing("</think>\nSo")
    assert closing_of(found, box, None) == Closing("</think>\n\\boxed{", "box")
    assert closing_of(found, box, "natural") == Closing("</think>\n\\boxed{")
    assert closing_of(found, own, "line") == Closing("</think>\nSo", "line")
    with pytest.raises(ControllerError, match="opens none"):
        closing_of(found, own, "box")
    assert replace(RECIPE, answer_ends="line") != RECIPE
