"""ctl mcq: prompts and answers in each format, selection bias, PriDe, votes over rotations, and a job that goes on."""

from __future__ import annotations

import json
import string
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from reasonctl.backends.toy import ToyEngine, ToyTokenizer
from reasonctl.calibration.cli.diagnostics import mcq as mcq_command
from reasonctl.calibration.cli.diagnostics.mcq import training_lines
from reasonctl.calibration.diagnostics.answers_file import Answered
from reasonctl.calibration.diagnostics.choice_question import ChoiceQuestion, choice_question
from reasonctl.calibration.diagnostics.mcq import McqGrid, results
from reasonctl.calibration.diagnostics.mcq_prompts import OPENINGS, Style, Worked
from reasonctl.calibration.diagnostics.mcq_questions import questions_of
from reasonctl.calibration.diagnostics.option_bias import letter_prior, selection_bias
from reasonctl.calibration.tasks.problem import Problem
from reasonctl.controller import (
    ROOT,
    Call,
    Controller,
    ControllerError,
    Decode,
    Keys,
    Row,
    RunContext,
    Trace,
    parse_policy,
)
from reasonctl.controller.sampling import option_spans
from reasonctl.controller.sampling.draw import CopiedStep
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
    texts = {one.policy(every.style(one).cue, prior, OPENINGS[one.format], 3) for one in cells}
    assert all(str(parse_policy(text)) for text in texts) and len(texts) == 2 * (3 + 3 + 3 + 1)


@pytest.mark.parametrize("kind", ["list", "markdown", "json"])
def test_where_letters_are_corrected_an_answer_begins_with_its_opening(kind: str) -> None:
    """A model that would begin otherwise is held to it, and then writes on freely; without debiasing it is free."""
    engine = ToyEngine(vocabulary=12, seed=6)
    tokenizer = ToyTokenizer([*(f"{text} " for text in "abcde"), "A", "B", "C", *OPENINGS.values(), "<eos>"])
    opening = tokenizer.encode(OPENINGS[kind])
    start = next(token for token in range(8) if 0 < engine.probs([token])[opening[0]] < 0.2)
    for debias, opened in ((("none",), False), (("none", "prior"), True)):
        grid = McqGrid((0,), ("answer", "explanation"), (kind,), (0.0,), debias)
        ask, *_, explained = grid.asks(FREEZES, [], {(0, kind): (0.5, 0.3, 0.2)}, 0)
        trace = Trace()
        call = Call([start], 8, frozenset({11}), Keys(seed=0), parse_policy(ask.policy))
        for _ in Controller().stream(engine.session(), tokenizer, call, trace):
            pass
        assert (trace.tokens[:1] == opening) == opened and "option_letter" not in explained.policy
        assert not opened or tokenizer.text(trace.tokens[1]) in "ABC"


class Reader(ToyEngine):
    """A toy model whose next token depends on every token before it."""

    def probs(self, tokens):
        return np.random.default_rng([7, *tokens]).dirichlet([0.7] * self.vocabulary)


PIECES = [*sorted(set(string.printable) - set("\x0b\x0c\r")), *OPENINGS.values(), " A", " B", " C", "A.", "Be", "<eos>"]
LETTER_TOKENS = ToyTokenizer(PIECES)
READER = Reader(vocabulary=len(PIECES))


def option_chances(grid: McqGrid, question: ChoiceQuestion) -> tuple[dict[str, float], str]:
    """What the policy of the grid's last cell gives each option where the letter is drawn, and what a run writes."""
    ask = grid.asks(Worked(question, "A"), [], {}, 0)[-1]
    prompt, policy = LETTER_TOKENS.encode(ask.question), parse_policy(ask.policy)
    tokens = [*prompt, *LETTER_TOKENS.encode(OPENINGS[grid.formats[0]])]
    (step,) = READER.forward((Decode(READER.session(), tokens),))
    context = RunContext(len(prompt), frozenset({len(PIECES) - 1}), LETTER_TOKENS, READER)
    row = Row(CopiedStep(step, 0, ()), ROOT, tokens, "after", Keys(seed=0), context)
    asking, reply = policy.prepare(policy.start(), row), None
    try:
        while True:
            (reply,) = READER.forward((asking.send(reply),))
    except StopIteration as ended:
        probs = policy.distribution(ended.value, row).dense(len(PIECES))
    chances = dict.fromkeys(question.options, 0.0)
    for token in np.flatnonzero(probs):
        chances[question.options["ABC".index(LETTER_TOKENS.text(int(token)).strip(" ."))]] += probs[token]
    trace = Trace()
    call = Call(prompt, len(tokens) - len(prompt) + 1, context.eos, Keys(seed=0), parse_policy(ask.policy))
    for _ in Controller().stream(READER.session(), LETTER_TOKENS, call, trace):
        pass
    return chances, LETTER_TOKENS.decode(trace.tokens)


@pytest.mark.parametrize("kind", ["list", "markdown", "json"])
def test_no_order_of_the_options_changes_what_a_cyclic_cell_gives(kind: str) -> None:
    """All orders of three options, one of two lines; nothing but letters comes behind the opening, in a none cell too.

    The negative control is the same cell without the stage.
    """
    by_cell: dict[str, list[dict[str, float]]] = {}
    for debias, temperature in (("cyclic", 1.0), ("cyclic", 0.0), ("none", 1.0)):
        grid = McqGrid((0,), ("answer",), (kind,), (temperature,), (debias,))
        if debias == "none":
            grid = replace(grid, debias=("cyclic", "none"))
        found = by_cell[f"{debias} {temperature}"] = []
        for order in permutations(("x = 1\ny = 2", "sand", "water")):
            chances, text = option_chances(grid, ChoiceQuestion("Q?", order, tuple("ABC")))
            assert text.startswith(OPENINGS[kind]) and text[len(OPENINGS[kind]) :].strip(" .") in tuple("ABC")
            assert sum(chances.values()) == pytest.approx(1.0)
            found.append(chances)
    for name in ("cyclic 1.0", "cyclic 0.0"):
        assert all(one == pytest.approx(by_cell[name][0], abs=1e-12) for one in by_cell[name])
    sand = [one["sand"] for one in by_cell["none 1.0"]]
    assert max(sand) - min(sand) > 0.1 and max(by_cell["cyclic 0.0"][0].values()) == 1.0


@pytest.mark.parametrize(
    ("text", "options", "after"),
    [
        ("Q?\nA. x = 1\n   y = 2\nB. z", ("x = 1\ny = 2", "z"), ""),
        ("Q?\nI. one\nII. two\nA. I only\nB. II only", ("I only", "II only"), ""),
        ("Q?\na) x\nb) y", ("x", "y"), ""),
        ("Q?\n(a) x\n(b) y", ("x", "y"), ""),
        ("Q?\n1. x\n2. y", ("x", "y"), ""),
        ("Q?\n1. one\n2. two\nA. 1 only\nB. 2 only", ("1 only", "2 only"), ""),
        ("Q?\nA. x\n\nB. y\n\nExplain.", ("x", "y"), "Explain."),
        ("Q?\nA. def f():\n       return 1\nB.\n  x\n\n  y\nC. d", ("def f():\n    return 1", "x\n\ny", "d"), ""),
        ("Q?\nA. x\nand more\nB. y", ("x\nand more", "y"), ""),
    ],
)
def test_no_line_of_an_option_is_lost(text: str, options: tuple[str, ...], after: str) -> None:
    """Every format shows whole options, and `cyclic_options` moves whole options, whatever the chat template adds."""
    found = choice_question(text)
    assert found is not None and (found.options, found.after) == (options, after)
    assert choice_question(found.text()).options == options
    for style in STYLES:
        for end in ("", "<|im_end|>\n<|im_start|>assistant\n", "</s>", " [/INST]", "<\uff5cAssistant\uff5c>"):
            shown = style.prompt(found) + end
            assert [shown[a:b] for a, b in option_spans(shown)] == [style.shown(one) for one in options]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("Q?\nA. x\nB. y\nD. z", "'D. z' begins as an option"),
        ("Q?\nA. x\nB. y\n1. p\n2. q", "'1. p' begins as an option"),
        ("Q?\nA.\nB. y", "an option is empty"),
        ("Q?\nA. x\nmore\nB. y\nmore", "is unclear"),
        ("Q?\n" + "\n".join(f"{letter}. x{letter}" for letter in "ABCDEFGHIJKL"), "give 10 at most"),
    ],
)
def test_options_that_cannot_be_told_are_refused_by_name(text: str, why: str) -> None:
    with pytest.raises(ControllerError, match=why) as refused:
        choice_question(text)
    assert "Q?" in str(refused.value)


def test_numbers_are_options_only_where_the_answer_is_one_of_them() -> None:
    numbered = "Steps:\n1. Take 5\n2. Add 30"
    assert questions_of([Problem(numbered, "35")])[0].made and choice_question(numbered + "\nHow many?") is None
    assert questions_of([Problem("Q?\n1. red\n2. blue", "2")])[0].gold == "B"
    with pytest.raises(ControllerError, match="is another's text"):
        questions_of([Problem("Q?\n1. 2\n2. 3", "2")])


def test_a_model_that_thinks_votes_over_rotations_and_has_no_prior() -> None:
    """An opening would stand within the thoughts, and thoughts name letters: whole runs vote, and nothing is opened."""
    grid = McqGrid((0,), ("answer",), ("list",), (0.0,), ("none", "cyclic")).for_thinking()
    asks = grid.asks(FREEZES, [], {}, 0)
    assert len(asks) == 4 and {one.policy for one in asks} == {"greedy"} and {one.most for one in asks} == {0}
    (_, voted) = results(grid, [FREEZES], [said("Answer: A", "Answer: C", "Answer: A", "Answer: A")])
    assert voted.letters == ("B",)
    with pytest.raises(ControllerError, match="--debias none,cyclic"):
        McqGrid((0,), ("answer",), ("list",), (0.0,), ("none", "prior")).for_thinking()


def test_what_is_read_is_no_part_of_the_header() -> None:
    """Plain jobs go on with the answers that they had; opened ones and those with examples are asked otherwise now."""
    assert GREEDY.header() == {name: value for name, value in vars(GREEDY).items() if name != "thinks"}
    assert (
        replace(GREEDY, debias=("none", "cyclic")).header()["asking"] == replace(GREEDY, shots=(1,)).header()["asking"]
    )


def test_worked_examples_say_what_the_task_says() -> None:
    explained = Worked(*BURNS[:2], explanation="Stone and salt don't burn.")
    for style in STYLES:
        assert "don't burn" in style.answer(explained) and "xplanation" not in style.answer(BURNS)
    (read,) = questions_of([Problem("Q?\nA. x\nB. y", "B", explanation="Because.")])
    assert read.explanation == "Because."


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
        ([Problem(text, "A"), Problem(text + "\nC. red", "C")], "red' has 3 options, and most questions have 2"),
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
        (["--sft", "s.jsonl", "--debias", "cyclic"], "add --debias none"),
        (["--shots", "1"], "needs examples that explain"),
        (["--debias", "none,prior"], "this model thinks"),
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


@pytest.fixture
def thoughtless(monkeypatch) -> None:
    """A model that doesn't think: the bundled one's markers are taken away."""

    def plain(*arguments):
        job, parts = opened(*arguments)
        return replace(job, recipe=replace(job.recipe, markers=None)), parts

    opened = mcq_command._open
    monkeypatch.setattr(mcq_command, "_open", plain)


def test_memory_is_checked_before_a_prior_is_estimated(capfd, tmp_path: Path, monkeypatch, thoughtless) -> None:
    job = ["mcq", "tiny", "--tasks", "tiny", "-n", "1", "--formats", "list", "--debias", "none,prior", "--orders"]
    job += ["answer", "--workers", "1", "--backend", "hf", "--batch", "2", "--out", str(tmp_path / "m.html")]
    monkeypatch.setattr("reasonctl.backends.hf.engine.free_memory", lambda: 1000)
    code, _, err = ctl(capfd, *job)
    assert code == 2 and "of memory are free" in err and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_prior_is_estimated_and_kept(capfd, tmp_path: Path, thoughtless) -> None:
    out, sft = tmp_path / "m.html", tmp_path / "s.jsonl"
    job = [
        "mcq",
        "tiny",
        "--tasks",
        "tiny",
        "-n",
        "1",
        "--formats",
        "list",
        "--debias",
        "none,prior",
        "--orders",
        "answer",
    ]
    job += ["--max-new-tokens", "4", "--out", str(out), "--json", "--workers", "1", "--sft", str(sft)]
    code, first, _ = ctl(capfd, *job)
    assert code == 0
    (prior,) = json.loads(first)["priors"]
    assert sum(prior["prior"]) == pytest.approx(1.0) and len(prior["prior"]) == 4 and sft.exists()
    out.unlink(), sft.unlink()
    assert ctl(capfd, *job)[1] == first
