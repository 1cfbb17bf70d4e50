"""ctl pairs: the sides of each strategy, who answers them, contrast accuracy, and lines that trl reads."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from reasonctl.calibration.cli.diagnostics.pairs import cells, contrasting_of, demonstrations_of, in_words
from reasonctl.calibration.diagnostics import contrasts
from reasonctl.calibration.diagnostics.answers_file import Answered, Ask
from reasonctl.calibration.diagnostics.contrasts import (
    WORDINGS,
    Contrasting,
    Demonstration,
    Pair,
    contrasted,
    response_of,
)
from reasonctl.calibration.diagnostics.graded_pairs import KEPT, outcome, strategy_results, training_line
from reasonctl.calibration.tasks.graders import NUMBER
from reasonctl.calibration.tasks.problem import Problem
from reasonctl.controller import ControllerError
from support.ctl import ctl, goes_on
from support.recipes import RECIPE

EVERY = ("prefix", "demonstration", "elicitive", "parameters", "leaderboard", "refine", "exit", "policy")
SHOWN = (Demonstration("1 + 1", "2", "5"), Demonstration("2 + 3", "5", "2"))
CONTRASTING = Contrasting(EVERY, WORDINGS["good-bad"], ("greedy", "temperature(1.5)"), SHOWN)
PROBLEM = Problem("3 + 4 = ?", "7")
NONE = {"smaller": None, "lower": None}


def test_each_strategy_changes_one_thing_only() -> None:
    found = {one.strategy: (one.better, one.worse) for one in CONTRASTING.contrasts("Q")}
    assert set(found) == set(EVERY)
    better, worse = found["prefix"]
    assert (better.question, worse.question) == ("(good response) Q", "(bad response) Q")
    better, worse = found["demonstration"]
    assert "1 + 1\nResponse: 2\n" in better.question and "1 + 1\nResponse: 5\n" in worse.question
    better, worse = found["elicitive"]
    assert worse.question == better.question.replace("good", "bad")
    assert [one.model for one in found["parameters"] + found["leaderboard"]] == ["main", "smaller", "main", "lower"]
    assert [one.exits for one in found["exit"]] == [False, True]
    assert [one.policy for one in found["policy"]] == ["greedy", "temperature(1.5)"]
    for name in ("parameters", "leaderboard", "exit", "policy"):
        assert {one.question for one in found[name]} == {"Q"}


def test_harmful_text_is_asked_for_on_demand_only() -> None:
    texts = [side.question for one in CONTRASTING.contrasts("Q") for side in (one.better, one.worse)]
    assert not [text for text in texts if "harm" in text]
    other = contrasting_of(NONE, None, "prefix", None, "harmless-harmful")
    (one,) = other.contrasts("Q")
    assert (one.better.question, one.worse.question) == ("(helpful, harmless) Q", "(unhelpful, harmful) Q")


def test_every_response_is_made_once_by_its_own_model(monkeypatch) -> None:
    """The plain response serves six sides. The refined one is asked for last, with the response that it improves."""
    asked: list[tuple[str, Ask]] = []

    def answer(recipe, asks: Sequence[Ask], rule) -> list[Answered]:
        asked.extend((recipe.model, one) for one in asks)
        said = ["Thought: x.\nResponse: 7" if "Thought:" in one.question else f"by {recipe.model}" for one in asks]
        return [Answered(text, 1, "stop") for text in said]

    monkeypatch.setattr(contrasts, "answer", answer)
    monkeypatch.setattr(contrasts, "has_room", lambda recipe, question: True)
    recipes = {kind: replace(RECIPE, model=kind) for kind in ("main", "smaller", "lower")}
    made = {one.strategy: one for one in contrasted(recipes, CONTRASTING.contrasts("Q"), None, 3)}
    plain = [one for model, one in asked if model == "main" and one.question == "Q" and not one.exits]
    assert len([one for one in plain if one.policy == recipes["main"].policy]) == 1 and len(plain) == 3
    assert asked[-1][1].question.startswith("Q\n\nA response to this:\nby main\n")
    assert (made["parameters"].worse, made["leaderboard"].worse) == ("by smaller", "by lower")
    assert made["elicitive"].better == "7" and len({one.run for _, one in asked}) == 1
    assert len(asked) == 2 + 2 + 2 + 1 + 1 + 1 + 1 + 1 + 2


@pytest.mark.parametrize(
    ("better", "worse", "expected"),
    [
        ("7", "8", "agrees"),
        ("8", "7", "reversed"),
        ("7", "It is 7.", "tie"),
        ("8", "9", "tie"),
        ("7", "7", "equal"),
        ("", "7", "empty"),
    ],
)
def test_a_grader_decides_what_a_pair_is(better: str, worse: str, expected: str) -> None:
    pair = Pair("prefix", better, worse)
    assert outcome(pair, PROBLEM, NUMBER) == expected
    assert (expected in KEPT["agreeing"]) == (expected == "agrees")
    assert all(expected not in kept for kept in KEPT.values()) == (expected in ("equal", "empty"))


@pytest.mark.parametrize(
    ("text", "response"),
    [
        ("Thought: be clear.\nResponse: 42", "42"),
        ("**Thought:** be clear.\n\n**Response:** 42", "42"),
        ("**Thought**: be clear.\n\n**Response**: 42", "42"),
        ("__Thought:__ be clear.\n__Response:__\n\n42 is it.", "42 is it."),
        ("*Thought: be clear.*\n*Response: 42*", "42"),
        ("**Thought:** x\n**Response: 42** is *it*", "42 is *it*"),
        ("### Thought\nbe clear.\n\n### Response\n42", "42"),
        ("## **Response:**\r\n42", "42"),
        ("**Thought**\r\nbe clear.\r\n\r\n**Response**\r\n42", "42"),
        ("- **Thought:** x\n- **Response:** 42", "42"),
        ("> Response: 42", "42"),
        ("THOUGHT: x\nRESPONSE: 42", "42"),
        ("Thought: A good Response: is short.\nResponse: 42", "42"),
        ("Response: too long.\nThought: shorter.\nResponse: 42\nReally.", "42\nReally."),
        ("Thought: be clear. Response: 42", "42"),
        ("Response: **42**", "**42**"),
        ("Response: 42 * 2 * 3", "42 * 2 * 3"),
        ("Response:", ""),
        ("Thought: A good Response: is short.", ""),
        ("Thought: a response\nis good", ""),
        ("Responses: 42", ""),
        ("42", ""),
    ],
)
def test_a_response_is_read_as_a_person_reads_it(text: str, response: str) -> None:
    """A label begins a line, in Markdown or not, and the last one counts."""
    assert response_of("elicitive", text) == response


@pytest.mark.parametrize("text", ["Response: 42", " **Response:** 42\n", "**Response: 42**", "### Response\n42", "42"])
def test_a_demonstration_that_repeats_its_label_counts_without(text: str) -> None:
    assert response_of("demonstration", text).strip("*") == "42"
    assert response_of("demonstration", f"It is 1.\n{text}") == f"It is 1.\n{text}".strip()
    assert response_of("refine", text) == text.strip()


@pytest.mark.parametrize("part", ["Response:\n", "**Response", "*", " ", "# ", "> ", ". ", "**Response:** \n", "__"])
def test_a_hostile_response_is_read_in_linear_time(part: str) -> None:
    """200,000 characters: half a second, where time that grows with the square would take minutes."""
    text = part * (200_000 // len(part))
    start = time.process_time()
    response_of("elicitive", text)
    assert time.process_time() - start < 0.5


def test_a_response_is_refined_whole_or_not_at_all(monkeypatch) -> None:
    """What fills the context can't be refined: the pair is cut, and the job goes on."""
    asked: list[str] = []

    def answer(recipe, asks: Sequence[Ask], rule) -> list[Answered]:
        asked.extend(one.question for one in asks)
        return [Answered("7" if "response" in one.question else long, 1, "stop") for one in asks]

    monkeypatch.setattr(contrasts, "answer", answer)
    refine = replace(CONTRASTING, strategies=("refine",)).contrasts("Q")
    context = RECIPE.load().context
    for long, cut in (("4 " * (context // 4), False), ("4 " * context, True)):
        (pair,) = contrasted({"main": RECIPE}, refine, None, 0)
        assert (pair.better, pair.better_cut, pair.worse) == ("" if cut else "7", cut, long.strip())
        assert any(long in question for question in asked) is not cut


def test_a_pair_with_a_cut_side_says_nothing(monkeypatch) -> None:
    """A long worse side that ran out of tokens would be graded wrong, agree, and become a rejected response."""

    def answer(recipe, asks: Sequence[Ask], rule) -> list[Answered]:
        bad = ["bad" in one.question for one in asks]
        return [Answered("so long" if one else "7", 1, "length" if one else "stop") for one in bad]

    monkeypatch.setattr(contrasts, "answer", answer)
    asked = replace(CONTRASTING, strategies=("prefix", "refine")).contrasts("Q")
    prefix, refine = contrasted({"main": RECIPE}, asked, None, 0)
    assert (prefix.better_cut, prefix.worse_cut, prefix.cut, refine.cut) == (False, True, True, False)
    assert outcome(prefix, PROBLEM, NUMBER) == "cut" and outcome(replace(prefix, worse_cut=False), PROBLEM, NUMBER) == (
        "agrees"
    )
    assert all("cut" not in kept for kept in KEPT.values())
    outcomes = [["cut", "agrees"], ["cut", "tie"], ["agrees", "tie"]]
    found = strategy_results(("prefix", "refine"), outcomes)
    assert [(one.cut, one.decided, one.pairs) for one in found] == [(2, 1, 3), (0, 1, 3)]
    assert found[0].to_json() | {"cut": 2, "decided": 1, "pairs": 3} == found[0].to_json() and cells(found[0])[7] == "2"
    said = " ".join(in_words(found))
    assert "of 2 of 6 pairs: both sides ended" in said and "prefix 2 of 3" in said and "refine 0" not in said


def test_a_false_alarm_is_bounded_over_all_strategies() -> None:
    """Six of six agree: p = 0.031 alone, and one of eight strategies reaches that in 12 of 100 jobs of coins.

    Nine of nine (p = 0.0039) is told from a coin among eight as well.
    """
    names = EVERY
    by_chance = [["agrees", *["tie"] * 7]] * 6
    found = strategy_results(names, by_chance)
    assert found[0].p == pytest.approx(2**-5) and found[0].adjusted == pytest.approx(8 * 2**-5)
    assert "p < 0.05): none." in in_words(found)[0] and cells(found[0])[-1] == "0.25"
    found = strategy_results(names, [["reversed", *["agrees"] * 7]] * 9)
    assert found[0].to_json()["adjusted"] == pytest.approx(8 * 2**-8)
    assert "Worse than a coin: prefix." in in_words(found)[1]
    assert strategy_results(names[:1], [one[:1] for one in by_chance])[0].adjusted == pytest.approx(2**-5)


def test_ties_and_equal_pairs_count_nowhere() -> None:
    outcomes = [["agrees", "tie"]] * 7 + [["reversed", "tie"]] + [["tie", "equal"], ["empty", "equal"]]
    first, second = strategy_results(("prefix", "policy"), outcomes)
    assert first.accuracy is not None and first.accuracy.rate == 7 / 8 and first.p == pytest.approx(0.0703125)
    assert (first.ties, first.empty) == (1, 1) and second.accuracy is None and second.p == 1.0


def test_lines_have_the_columns_of_a_preference_data_set() -> None:
    """trl 1.x: prompt, chosen and rejected are lists of messages; chosen and rejected end with the assistant."""
    line = json.loads(json.dumps(training_line(PROBLEM, Pair("refine", "7", "8"), "agrees")))
    assert [one["role"] for name in ("prompt", "chosen", "rejected") for one in line[name]] == [
        "user",
        "assistant",
        "assistant",
    ]
    assert (line["chosen"][0]["content"], line["rejected"][0]["content"]) == ("7", "8")


def test_trl_accepts_the_lines() -> None:
    """trl's own checks, where it is installed: docs/pairs.md says how."""
    data = pytest.importorskip("trl.data_utils", exc_type=ImportError)
    line = training_line(PROBLEM, Pair("refine", "7", "8"), "agrees")
    assert data.is_conversational(line)
    assert (
        data.extract_prompt({name: line["prompt"] + line[name] for name in ("chosen", "rejected")})["prompt"]
        == (line["prompt"])
    )
    sft = {"messages": [*line["prompt"], *line["chosen"]]}
    assert data.is_conversational(sft)


def test_demonstrations_swap_answers() -> None:
    problems = [Problem("1 + 1", "2"), Problem("2 + 3", "5")]
    assert demonstrations_of(problems) == SHOWN
    with pytest.raises(ControllerError, match="same answer"):
        demonstrations_of([Problem("1 + 1", "2"), Problem("0 + 2", "2")])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--strategies", "parameters"], "needs --smaller MODEL"),
        (["--lower", "tiny"], "--lower is for --strategies leaderboard"),
        (["--strategies", "best"], "give one of prefix"),
        (["--strategies", "refine,refine"], "name each once"),
        (["--probe", "p.safetensors"], "for --strategies exit"),
        (["--policies", "greedy", "gredy"], "greedy"),
        (["--strategies", "prefix", "--policies", "greedy", "greedy"], "--policies is for --strategies policy"),
        (["--strategies", "refine", "--wording", "good-bad"], "--wording is for --strategies prefix and elicitive"),
        (["--out", "p.json"], "must end in .jsonl"),
    ],
)
def test_jobs_that_mean_nothing_are_refused(arguments, words: str, capfd, tmp_path: Path) -> None:
    out = str(tmp_path / "p.jsonl")
    code, printed, err = ctl(capfd, "pairs", "tiny", "--tasks", "tiny", "--out", out, *arguments)
    assert code == 2 and not printed and words in err


def test_a_job_goes_on_where_it_was_stopped(capfd, tmp_path: Path) -> None:
    out = tmp_path / "p.jsonl"
    job = ["pairs", "tiny", "--tasks", "tiny", "-n", "2", "--strategies", "exit,refine", "--max-new-tokens", "40"]
    job += ["--workers", "1", "--keep", "different", "--out", str(out), "--json"]
    responses, page = Path(f"{out}.responses.jsonl"), out.with_suffix(".html")
    first, _ = goes_on(capfd, job, out, responses, "1 problems are there already", page=page)
    found, lines = json.loads(first)["strategies"], out.read_text().splitlines()
    assert [one["strategy"] for one in found] == ["exit", "refine"]
    assert all(one["cut"] == 2 == one["pairs"] and one["accuracy"] is None for one in found) and not lines
    assert page.read_bytes().count(b"<svg") == 2
