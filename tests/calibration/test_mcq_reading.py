"""How the letter of an answer is read: as a person reads it, and in time linear in the text."""

from __future__ import annotations

import time

import pytest

from reasonctl.calibration.diagnostics.mcq_prompts import Style

OPTIONS = ("sand", "water", "fire")


@pytest.mark.parametrize(
    ("style", "text", "letter"),
    [
        (Style("list", "explanation"), "Answer: C. Note: answer A is a distractor.", "C"),
        (Style("list", "explanation"), "The answer is B.", "B"),
        (Style("list", "explanation"), "So the correct answer is C.", "C"),
        (Style("list", "explanation"), r"Answer: \boxed{B}", "B"),
        (Style("list", "explanation"), r"$\boxed{\text{C}}$", "C"),
        (Style("list", "explanation"), "Answer: Option B", "B"),
        (Style("list", "explanation"), "Option C is correct.", "C"),
        (Style("list", "explanation"), "I'd go with B.", "B"),
        (Style("list", "explanation"), "The right choice is (B).", "B"),
        (Style("list", "explanation"), "### Answer\nC", "C"),
        (Style("list", "explanation"), "It burns.\n**C**", "C"),
        (Style("list", "explanation"), "**Answer**: C", "C"),
        (Style("list", "explanation"), "Answer: water", "B"),
        (Style("list", "explanation"), "Final answer -> B", "B"),
        (Style("list", "explanation"), "answer: b", "B"),
        (Style("list", "explanation"), "The answer to this question is B.", "B"),
        (Style("list", "explanation"), "So, answer B", "B"),
        (Style("list", "explanation"), "Answer: B, A is too dry", "B"),
        (Style("list", "explanation"), "Answer: B\nExplanation: One might think the answer is A.", "B"),
        (Style("list", "explanation"), "If the answer is A, then it burns. Answer: C", "C"),
        (Style("list", "answer"), "Answer: A sand", "A"),
        (Style("list", "answer"), "Answer: A since it is dry", "A"),
        (Style("list", "answer"), "Answer: a banana", ""),
        (Style("list", "answer"), "Answer: A bit of each", ""),
        (Style("list", "explanation"), "the answer is a fire", ""),
        (Style("list", "explanation"), "Answer: A or B", ""),
        (Style("list", "explanation"), "Answer: both A and B", ""),
        (Style("list", "explanation"), "Answer: A, B", ""),
        (Style("list", "explanation"), "Answer: C?", ""),
        (Style("list", "explanation"), "Answer: B is wrong", ""),
        (Style("list", "explanation"), "The answer isn't A.", ""),
        (Style("list", "explanation"), "A is not correct.", ""),
        (Style("list", "explanation"), "Answer: B-cells", ""),
        (Style("list", "explanation"), "None of the answers fit.", ""),
        (Style("json", "explanation"), '{"Answer": "B"}', "B"),
        (Style("json", "answer"), '{"answer": "Option B"}', "B"),
        (Style("json", "answer"), '{"answer": "water"}', "B"),
        (Style("json", "explanation"), '{"explanation": "answer: \\"A\\" no", "answer": "C. fire"}', "C"),
        (Style("json", "explanation"), '{"answer": null}', ""),
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
    assert style.letter(text, OPTIONS) == letter


def test_reading_takes_linear_time() -> None:
    """Texts that begin many matches and end none."""
    options, begun = OPTIONS, time.process_time()
    for part in ("answer:", "answer: (", "\\boxed{", "A is ", "if the ", "\n", " ", '"answer": "', "(", "I choose "):
        text = part * (20_000 // len(part)) + "answer"
        for style in (Style("list", "explanation"), Style("json", "answer")):
            assert style.letter(text, options) in ("", "A")
    assert time.process_time() - begun < 5
