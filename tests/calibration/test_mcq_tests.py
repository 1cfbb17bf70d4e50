"""ctl mcq: paired tests against cells without debiasing, and the bias of a chooser that has none."""

from __future__ import annotations

import numpy as np
import pytest

from reasonctl.calibration.cli.diagnostics.mcq_words import Findings, notes_of
from reasonctl.calibration.diagnostics.answers_file import Answered
from reasonctl.calibration.diagnostics.choice_question import choice_question
from reasonctl.calibration.diagnostics.mcq import CellResult, McqGrid, results
from reasonctl.calibration.diagnostics.mcq_prompts import Worked
from reasonctl.calibration.diagnostics.mcq_tests import against_plain, unbiased
from reasonctl.calibration.diagnostics.option_bias import selection_bias
from reasonctl.calibration.diagnostics.paired import mcnemar

GRID = McqGrid((0,), ("answer",), ("list",), (0.0, 1.0), ("none", "cyclic"))
QUESTION = choice_question("Q?\nA. w\nB. x\nC. y\nD. z")


def cells(chosen: list[list[str]], gold: str) -> list[CellResult]:
    """The cells of the grid with these letters."""
    answers = [[Answered(f"Answer: {one[i]}", 3, "stop") for one in chosen] for i in range(len(gold))]
    return results(GRID, [Worked(QUESTION, letter) for letter in gold], answers)


def test_each_debiased_cell_is_tested_against_its_own_plain_cell() -> None:
    """By hand: 8 gained and 1 lost, then nothing changed; Holm doubles the smaller p."""
    gold = "ABCD" * 5
    plain = ["A"] * 8 + [*gold[8:]]
    gained = sum(a != b for a, b in zip(plain, gold, strict=True))
    other = [*gold[:19], "A"]
    found = cells([plain, other, plain, plain], gold)
    first, second = (one for one in against_plain(found) if one is not None)
    assert (first.gained, first.lost, first.p) == (gained, 1, mcnemar(gained, 1))
    assert first.adjusted == pytest.approx(2 * first.p) and (second.p, second.adjusted) == (1.0, 1.0)
    assert against_plain(found)[0] is None


def test_words_name_no_winner_of_many_without_its_test() -> None:
    gold = "ABCD" * 5
    found = Findings(cells([["A"] * 20, [*gold[:19], "A"], ["B"] * 20, [*gold]], gold), [])
    text = " ".join(found.in_words())
    assert "picked from 4 cells" in text and "It doesn't differ from the next one" in text and "after Holm" in text
    values = found.to_json()
    assert values[0]["against_none"] is None and values[1]["against_none"]["adjusted"] <= 0.05
    assert values[0]["bias"]["distance"] > values[0]["unbiased"]["distance"]["q95"]
    assert values[3]["unbiased"]["distance"] == {"mean": 0.0, "q95": 0.0}


def test_a_chooser_without_bias_exceeds_its_quantile_as_often_as_it_says() -> None:
    """400 choosers that are right at random, else wrong evenly: 5 % are above the quantile, within four deviations.

    A chooser of A where it isn't right is above nearly always. Few-sample bias isn't zero.
    """
    rng, letters = np.random.default_rng(3), "ABCD"
    gold = "".join(rng.choice(list(letters), 60))
    cell = cells([[*gold[:30], *(letters[(letters.index(one) + 1) % 4] for one in gold[30:])]] * 4, gold)[0]
    reference = unbiased(cell)
    assert reference == unbiased(cell) and reference.distance[0] > 0.02 and reference.recall_sd[0] > 0.05
    above = []
    for _ in range(400):
        right = set(rng.permutation(60)[:30].tolist())
        chosen = [one if i in right else rng.choice([x for x in letters if x != one]) for i, one in enumerate(gold)]
        bias = selection_bias(chosen, gold, letters)
        above.append((bias.distance > reference.distance[1], bias.recall_sd > reference.recall_sd[1]))
    assert np.all(np.mean(above, axis=0) < 0.05 + 4 * (0.05 * 0.95 / 400) ** 0.5)
    biased = selection_bias([one if i % 2 else "A" for i, one in enumerate(gold)], gold, letters)
    assert biased.distance > reference.distance[1] and biased.recall_sd > reference.recall_sd[1]


def test_made_up_options_and_those_that_name_others_are_announced() -> None:
    refers = Worked(choice_question("Q?\nA. w\nB. None of the above"), "A")
    made = Worked(QUESTION, "A", made=True)
    assert notes_of([Worked(QUESTION, "A")], GRID) == []
    first, second = notes_of([refers, made], GRID)
    assert first.startswith("1 of 2 questions have no options") and second.startswith(
        "1 of 2 questions have options that"
    )
    plain = McqGrid((0,), ("answer",), ("list",), (0.0,), ("none",))
    assert notes_of([refers], plain) == []


def test_where_no_letter_was_chosen_nothing_is_said_of_a_preference() -> None:
    found = Findings(cells([[""] * 4] * 4, "ABCD"), [])
    text = " ".join(found.in_words())
    assert "No letter was chosen, so nothing can be said" in text and "nan" not in text
