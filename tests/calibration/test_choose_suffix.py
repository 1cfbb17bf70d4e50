"""The choice of a suffix: candidates by model and task, and the one whose answers are whole, right and short."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
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
    stages,
    suffices,
    tried_at,
)
from reasonctl.calibration.runs.closings import collect_closings
from reasonctl.calibration.runs.collect import graded
from reasonctl.calibration.runs.records import CueRecord, RunRecord
from reasonctl.calibration.runs.trials import Trials
from reasonctl.calibration.runs.worker import AskedRun, collect_run, one_run
from reasonctl.calibration.tasks.graders import NUMBER
from reasonctl.calibration.tasks.problem import Problem
from reasonctl.calibration.tasks.sources import load_task
from reasonctl.controller import Closing, ControllerError, Cues, Markers, Thinking
from reasonctl.controller.thinking import Format, read_template
from reasonctl.probes.fixed_exits import FixedExit
from support.recipes import RECIPE

BARE = read_template(None)
FEW = Trials("few")


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


def test_the_models_own_ends_are_tried_last_and_only_if_nothing_else_will_do():
    own, line, box = plain(BARE), lined(BARE), boxed(BARE)
    assert stages((box, line, own)) == [(box, line), (own,)] and stages((own, A)) == [(own, A)]
    able, unable = record_of("5", right=True), record_of("6")
    for counts, runs, enough in [
        ([(box, 50, 49, 9, 9), (line, 50, 20, 9, 9)], [able], True),
        ([(box, 50, 48, 9, 9), (line, 50, 20, 9, 9)], [able], False),  # one truncated answer in 25
        ([(box, 50, 50, 0, 9), (line, 50, 20, 9, 9)], [unable, able], False),  # whole, and never right
        ([(box, 50, 50, 0, 9)], [unable], True),  # as a full run is
        ([(box, 0, 0, 0, 0)], [able], True),  # no cue
    ]:
        assert suffices([ClosingCounts(*one) for one in counts], runs) == enough


def record_of(answer: str, *tried: CueRecord, right: bool = False, gold: str | None = "5") -> RunRecord:
    return RunRecord(0, 1, "?", 9, "stop", answer, answer, tried, right=right, gold=gold)


def test_a_trial_keeps_the_deadline(monkeypatch):
    """It ends after the run under way, without a choice; a deadline that comes after the last run changes nothing."""
    made, clock = [], [0.0]

    def tries(identity, recipe, closings, window, which):
        made.extend(window)
        clock[0] += 10 * len(window)
        return [(record_of("5"),) * len(closings) for _ in window]

    monkeypatch.setattr("reasonctl.calibration.fitting.choose_suffix.collect_closings", tries)
    monkeypatch.setattr("reasonctl.calibration.fitting.choose_suffix.time.monotonic", lambda: clock[0])
    runs = [(i, Problem(f"{i}", "5")) for i in range(4)]
    assert choose_suffix(RECIPE, (A, B), runs, NUMBER, which=FEW, deadline=15.0) is None and len(made) == 2
    assert choose_suffix(RECIPE, (A, B), runs, NUMBER, which=FEW, deadline=clock[0] + 35.0).closing == A


def test_answers_are_counted_and_without_gold_by_the_full_run():
    """A truncated answer is never right: nobody knows what an exit would say after it."""
    found = collect_run(replace(RECIPE, max_new_tokens=60), 0, load_task("tiny").problems(1, stream=6)[0].question)
    cue = found.cues[0]
    tried = (
        replace(cue, position=1, answer="5", complete=True, trial=4),
        replace(cue, position=2, answer="6", complete=False, trial=9),
        replace(cue, position=3, answer="6", complete=True, trial=3),
        replace(cue, answer=None, tokens=None, trial=0, logprobs=(), complete=None),
    )
    run = replace(found, answer="It is 5.", cues=tried)
    for answer, right in (("6", 1), (None, 1), ("7", 0)):
        graded_run = graded(run, Problem("?", answer), NUMBER)
        at = tried_at([graded_run])
        assert at == {(0, 1), (0, 2), (0, 3)} and count(A, [graded_run], at) == ClosingCounts(A, 3, 2, right, 16)
        assert count(A, [graded_run], {(0, 2)}).tried == 1


def test_the_bundled_model_keeps_its_own_suffix():
    """Its short answers are whole and right as they come, others aren't. What is counted is what exits give."""
    model, found = RECIPE.load(), read_template(RECIPE.load().template)
    closings = (Closing("</think>\n{", "box"), plain(found), Closing("</think>\nWait"))
    problems = list(enumerate(load_task("tiny").problems(4, stream=6)))
    chosen = choose_suffix(replace(RECIPE, batch=3), closings, problems, NUMBER, which=FEW)
    assert chosen.closing == plain(found) == Closing(RECIPE.suffix)
    assert [one.closing for one in chosen.counts] == list(closings)
    tokens = tried = right = 0
    for i, problem in problems:
        for cue in chosen.runs[i].cues:
            if cue.labelled:
                rule = FixedExit(
                    index=chosen.runs[i].cues.index(cue),
                    cues=Cues(RECIPE.cues),
                    suffix=RECIPE.suffix,
                    markers=Markers(*RECIPE.markers),
                )
                trace, _ = one_run(RECIPE, model, i, problem.question, rule)
                answer = trace.tokens[trace.forced[0] :]
                tokens, tried = tokens + len(answer), tried + 1
                right += NUMBER.right(model.tokenizer.decode(answer).partition("</think>")[2], problem)
    assert chosen.counts[1] == ClosingCounts(closings[1], tried, tried, right, tokens) and tried > 6


def test_the_runs_of_the_choice_are_the_fitting_runs_that_the_job_would_collect():
    """Whatever else was tried at their cues."""
    own = Closing(RECIPE.suffix)
    problems = list(enumerate(load_task("tiny").problems(3, stream=8)))
    for which in (FEW, Trials()):
        chosen = choose_suffix(
            RECIPE, (Closing("</think>\n{", "box"), own, Closing("</think>\nWait")), problems, NUMBER, which=which
        )
        alone = [graded(collect_run(RECIPE, i, one.question, which), one, NUMBER) for i, one in problems]
        assert chosen.closing == own
        for one, other in zip(chosen.runs, alone, strict=True):
            check_equal(one, other)


def test_the_first_way_has_all_labels_and_ways_are_compared_at_the_same_cues():
    """Of twelve fitting runs more cues are tried; the second way needs no more of them than a comparison does."""
    first, second = Closing("</think>\n{", "box"), Closing("</think>\n[", "line")
    window = [AskedRun(i, one.question) for i, one in enumerate(load_task("tiny").problems(3, stream=8))]
    often = replace(FEW, often=8.0)
    found = collect_closings(None, RECIPE, (first, second), window, often)
    of = [tried_at([records[i] for records in found]) for i in (0, 1)]
    alone = [collect_run(RECIPE, one.run, one.question, which) for which in (often, FEW) for one in window]
    assert of == [tried_at(alone[:3]), tried_at(alone[3:])] and of[1] < of[0]
    problems = list(enumerate(load_task("tiny").problems(3, stream=8)))
    chosen = choose_suffix(RECIPE, (first, second), problems, NUMBER, which=often)
    assert [one.tried for one in chosen.counts] == [len(of[1])] * 2


def check_equal(run: RunRecord, other: RunRecord) -> None:
    """The same run and the same trials, up to what other sequences in the cache change in a number's last digits."""
    assert replace(run, cues=(), others=()) == replace(other, cues=(), others=())
    for one, two in zip((*run.cues, *run.others), (*other.cues, *other.others), strict=True):
        assert replace(one, hidden="", entropy=0.0, logprobs=()) == replace(two, hidden="", entropy=0.0, logprobs=())
        np.testing.assert_allclose(one.state, two.state, atol=1e-3)
        np.testing.assert_allclose([one.entropy, *one.logprobs], [two.entropy, *two.logprobs], atol=1e-3)


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
