"""ctl mcq: prompts and answers in each format, selection bias, PriDe, votes over rotations, and a job that goes on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from reasonctl.backends.toy import ToyEngine, ToyTokenizer
from reasonctl.calibration.cli.diagnostics.mcq import training_lines
from reasonctl.calibration.diagnostics.answers_file import Answered
from reasonctl.calibration.diagnostics.choice_question import choice_question
from reasonctl.calibration.diagnostics.mcq import McqGrid, results
from reasonctl.calibration.diagnostics.mcq_prompts import OPENINGS, Style, Worked
from reasonctl.calibration.diagnostics.mcq_questions import questions_of
from reasonctl.calibration.diagnostics.option_bias import letter_prior, selection_bias
from reasonctl.calibration.tasks.problem import Problem
from reasonctl.controller import Call, Controller, ControllerError, Keys, Trace, parse_policy
from reasonctl.controller.sampling import option_spans
from support.ctl import ctl, goes_on

FREEZES = Worked(choice_question("Which freezes?\nA. sand\nB. water\nC. fire"), "B")
BURNS = Worked(choice_question("Which burns?\nA. wood\nB. stone\nC. salt"), "A")
STYLES = [Style(kind, order) for kind in ("list", "markdown", "json") for order in ("answer", "explanation")]
GREEDY = McqGrid((0,), ("answer",), ("list",), (0.0,), ("none",))


def said(*texts: str, finish: str = "stop") -> list[Answered]:
    return [Answered(one, 10, finish) for one in texts]


@pytest.mark.parametrize("style", STYLES, ids=lambda style: f"{style.format}-{style.order}")
def test_a_worked_answer_is_read_and_the_asked_options_are_the_last(style: Style) -> None:
    """What an example shows is what the reader reads, and `cyclic_options` finds the question's own options."""
    text = style.prompt(FREEZES.question, [BURNS])
    assert [text[a:b] for a, b in option_spans(text)] == ["sand", "water", "fire"]
    answer = style.answer(BURNS)
    assert style.letter(answer, BURNS.question.options) == "A" and answer in text
    if style.order == "answer":
        assert answer.startswith(OPENINGS[style.format])
    if style.format == "json":
        assert json.loads(answer)["answer"] == "A"


@pytest.mark.parametrize(
    ("style", "text", "letter"),
    [
        (Style("list", "answer"), "Answer: B\nExplanation: the answer is not A.", "B"),
        (Style("list", "explanation"), "The answer A is tempting.\nAnswer: C", "C"),
        (Style("markdown", "answer"), "**Answer:** **C**", "C"),
        (Style("json", "explanation"), '{"explanation": "not \\"A\\"", "answer": "C"}', "C"),
        (Style("list", "answer"), "Answer: D", ""),
        (Style("list", "answer"), "Answer: Because", ""),
        (Style("json", "answer"), "Answer: B", ""),
        (Style("list", "answer"), "B", "B"),
        (Style("list", "answer"), "C. fire\nExplanation: answer A is cold.", "C"),
        (Style("markdown", "answer"), "**C.** fire", "C"),
        (Style("list", "answer"), "(b) water", ""),
        (Style("list", "answer"), "A thing of water", ""),
        (Style("list", "answer"), "D. steel", ""),
        (Style("list", "explanation"), "A. sand is out.", ""),
        (Style("json", "answer"), "C. fire", ""),
    ],
)
def test_letters_are_read_and_others_are_not(style: Style, text: str, letter: str) -> None:
    assert style.letter(text, FREEZES.question.options) == letter


def test_irac_asks_for_its_four_parts() -> None:
    text = Style("list", "explanation", irac=True).instruction()
    assert all(part in text for part in ("issue", "rule", "application", "conclusion"))


def test_an_unread_answer_counts_as_wrong() -> None:
    (found,) = results(GREEDY, [FREEZES, BURNS, BURNS], [said("Answer: B"), said("none of them"), said("Answer: C")])
    assert (found.accuracy.rate, found.unparsed.rate) == pytest.approx((1 / 3, 1 / 3))
    assert found.bias.chosen == (0, 1, 1) and found.letters == ("B", "", "C")


def test_selection_bias_by_hand() -> None:
    """Always A: the distance from a uniform gold is 3/4, and recall is 1, 0, 0, 0."""
    gold = list("ABCD") * 5
    bias = selection_bias(["A"] * 20, gold, "ABCD")
    assert bias.distance == 0.75 and bias.recall_sd == pytest.approx(np.std([1, 0, 0, 0]))
    assert selection_bias(gold, gold, "ABCD").distance == selection_bias(gold, gold, "ABCD").recall_sd == 0.0


def test_a_planted_prior_is_found_whatever_the_options_are() -> None:
    """P(letter) ~ prior x option, renormalised: PriDe's own model. The geometric mean finds the prior exactly."""
    rng, prior = np.random.default_rng(0), np.array([0.5, 0.25, 0.15, 0.1])
    shares = []
    for _ in range(6):
        option = rng.dirichlet([1.0] * 4)
        rows = np.array([prior * np.roll(option, by) for by in range(4)])
        shares.append(rows / rows.sum(axis=1, keepdims=True))
    assert letter_prior(shares) == pytest.approx(prior)
    arithmetic = np.mean([one.mean(axis=0) for one in shares], axis=0)
    assert np.abs(arithmetic - prior).max() > 0.01, "the arithmetic mean doesn't"


def test_rotations_vote_by_option_and_no_order_changes_them() -> None:
    """Three runs, on the options in alphabetical order rotated: fire, sand, water and so on."""
    grid = McqGrid((0,), ("explanation",), ("list",), (0.0,), ("cyclic",))
    moved = Worked(FREEZES.question.rotated(1), "C")
    asked = [grid.asks(one, [], {}, 0) for one in (FREEZES, moved)]
    assert asked[0] == asked[1] and len(asked[0]) == 3
    runs = said("Answer: C", "Answer: A", "Answer: A")  # water, water, sand
    (found,), (other,) = results(grid, [FREEZES], [runs]), results(grid, [moved], [runs])
    assert found.letters == ("B",) and other.letters == ("C",) and found.accuracy.rate == other.accuracy.rate == 1
    assert found.tokens == 30


def test_policies_of_all_cells_are_read() -> None:
    every = McqGrid(
        (0, 1), ("answer", "explanation"), ("list", "markdown", "json"), (0.0, 0.7), ("none", "prior", "cyclic")
    )
    prior = {(shots, kind): (0.5, 0.3, 0.2) for shots in (0, 1) for kind in ("list", "markdown", "json")}
    cells = every.cells()
    assert len(cells) == 60 and not [one for one in cells if one.debias == "prior" and one.order == "explanation"]
    texts = {one.policy(every.style(one).cue, prior, OPENINGS[one.format]) for one in cells}
    assert all(str(parse_policy(text)) for text in texts) and len(texts) == 2 * (3 + 3 + 3 + 1)


@pytest.mark.parametrize("kind", ["list", "markdown", "json"])
def test_where_letters_are_corrected_an_answer_begins_with_its_opening(kind: str) -> None:
    """A model that would begin otherwise is held to it, and then writes on freely; without debiasing it is free."""
    engine = ToyEngine(vocabulary=12, seed=6)
    tokenizer = ToyTokenizer([*(f"{text} " for text in "abcdefgh"), *OPENINGS.values(), "<eos>"])
    opening = tokenizer.encode(OPENINGS[kind])
    start = next(token for token in range(8) if 0 < engine.probs([token])[opening[0]] < 0.2)
    for debias, opened in ((("none",), False), (("none", "prior"), True)):
        grid = McqGrid((0,), ("answer", "explanation"), (kind,), (0.0,), debias)
        ask, *_, explained = grid.asks(FREEZES, [], {(0, kind): (0.5, 0.3, 0.2)}, 0)
        trace = Trace()
        call = Call([start], 4, frozenset({11}), Keys(seed=0), parse_policy(ask.policy))
        for _ in Controller().stream(engine.session(), tokenizer, call, trace):
            pass
        assert (trace.tokens[0] == opening[0]) == opened and "grammar" not in explained.policy


def test_options_are_made_for_numbers_and_read_for_questions() -> None:
    (made,) = questions_of([Problem("48 a-9 b+6 c-3", "42")])
    assert len(set(made.question.options)) == 4 and made.question.options["ABCD".index(made.gold)] == "42"
    assert questions_of([Problem("48 a-9 b+6 c-3", "42")]) == [made]
    golds = {one.gold for one in questions_of([Problem(f"{i} + 1", str(i + 1)) for i in range(40)])}
    assert golds == set("ABCD")
    text = "Q?\nA. red\nB. blue"
    assert [one.gold for one in questions_of([Problem(text, "B"), Problem(text, "(b)"), Problem(text, "Red")])] == [
        "B",
        "B",
        "A",
    ]
    for problems, why in (
        ([Problem("Who?", "Ada")], "no whole number"),
        ([Problem(text, "green")], "names no option"),
        ([Problem(text, "A"), Problem(text + "\nC. red", "C")], "2 to 3 options"),
    ):
        with pytest.raises(ControllerError, match=why):
            questions_of(problems)


def test_lines_for_training_are_right_answers_only() -> None:
    """A wrong answer, a cut one and one that can't be read are left out; worked examples stay out of the prompt."""
    grid = McqGrid((0, 1), ("explanation",), ("list",), (0.0,), ("none",), whole=True)
    answers = [
        [*said("So: Answer: B"), *said("So: Answer: B")],
        [*said("Answer: C"), *said("Answer: A", finish="length")],
    ]
    questions = [FREEZES, BURNS]
    lines = training_lines(grid, questions, answers, results(grid, questions, answers))
    assert [[one["role"] for one in line["messages"]] for line in lines] == [["user", "assistant"]]
    assert lines[0]["messages"][1]["content"] == "So: Answer: B" and "burns" not in lines[0]["messages"][0]["content"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--formats", "yaml"], "give one of list, markdown, json"),
        (["--shots", "0,0"], "each once"),
        (["--shots", "99"], "from 0 to 16"),
        (["--debias", "prior", "--orders", "explanation"], "a letter that comes first"),
        (["--temperatures", "-1"], "from 0 to 100"),
        (["--grader", "m:f"], "answers are letters"),
    ],
)
def test_jobs_that_mean_nothing_are_refused(arguments, words: str, capfd, tmp_path: Path) -> None:
    code, out, err = ctl(capfd, "mcq", "tiny", "--tasks", "tiny", "--out", str(tmp_path / "m.html"), *arguments)
    assert code == 2 and not out and words in err


def test_a_model_that_thinks_may_write_on_to_its_answer(capfd, tmp_path: Path) -> None:
    """Sixteen tokens are enough for a letter that comes first, and hold nothing but thoughts here."""
    job = ["mcq", "tiny", "--tasks", "tiny", "-n", "1", "--formats", "list", "--orders", "answer", "--workers", "1"]
    job += ["--debias", "none", "--max-new-tokens", "24", "--out", str(tmp_path / "m.html"), "--json"]
    code, out, _ = ctl(capfd, *job)
    assert code == 0 and json.loads(out)["cells"][0]["tokens"] == 24


def test_a_job_goes_on_where_it_was_stopped(capfd, tmp_path: Path) -> None:
    out = tmp_path / "m.html"
    job = ["mcq", "tiny", "--tasks", "tiny", "-n", "2", "--formats", "list", "--debias", "none,cyclic", "--workers"]
    job += ["1", "--max-new-tokens", "4", "--out", str(out), "--json"]
    first, page = goes_on(capfd, job, out, Path(f"{out}.answers.jsonl"), "1 problems are there already")
    assert [one["debias"] for one in json.loads(first)["cells"]] == ["none", "cyclic"] * 2 and page.count(b"<svg") == 2


@pytest.mark.slow
def test_a_prior_is_estimated_and_kept(capfd, tmp_path: Path) -> None:
    out, sft = tmp_path / "m.html", tmp_path / "s.jsonl"
    job = ["mcq", "tiny", "--tasks", "tiny", "-n", "1", "--formats", "list", "--debias", "prior", "--orders", "answer"]
    job += ["--max-new-tokens", "4", "--out", str(out), "--json", "--workers", "1", "--sft", str(sft)]
    code, first, _ = ctl(capfd, *job)
    assert code == 0
    (prior,) = json.loads(first)["priors"]
    assert sum(prior["prior"]) == pytest.approx(1.0) and len(prior["prior"]) == 4 and sft.exists()
    out.unlink(), sft.unlink()
    assert ctl(capfd, *job)[1] == first
