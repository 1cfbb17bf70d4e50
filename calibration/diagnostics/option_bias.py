"""Selection bias of multiple-choice answers: how it is measured, and the model's prior for the letters (PriDe).

After "Large Language Models Are Not Robust Multiple Choice Selectors" (arXiv 2309.03882). The debiased answers
themselves are made while decoding, by the stages `option_prior` and `cyclic_options`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from reasonctl.backends import Model
from reasonctl.controller.core import Fields, softmax
from reasonctl.controller.sampling import letter_logits, letter_tokens

from ..runs.job_file import JobFile
from ..runs.teacher_forced import forced_rows
from .mcq_prompts import OPENINGS, Style, Worked

Array = npt.NDArray[np.float64]


@dataclass
class PriorFile(JobFile):
    """What the model gives each letter under each rotation, a line for each style and question."""

    what: ClassVar[str] = "letter probabilities"
    versions: ClassVar[tuple[int, ...]] = (1,)
    free: ClassVar[frozenset[str]] = frozenset()

    def append(self, shares: Array) -> None:
        """Write the probabilities, shape (rotations, letters), and make sure that they are on the disk."""
        self._write({"shares": [[round(value, 12) for value in row] for row in shares.tolist()]})

    def read(self) -> list[Array]:
        """All of them, in order. Raises ControllerError where the file was changed; the line is named."""
        found = []
        for number, value in self._lines():
            rows = Fields.of(value, f"line {number} of {str(self.path)!r}").items("shares")
            found.append(np.array(rows, dtype=np.float64))
        return found


def rotated_shares(model: Model, style: Style, asked: Worked, shots: Sequence[Worked]) -> Array:
    """The letters' probabilities where an answer begins, under each rotation of the options as they are given.

    Args:
        model: The model.
        style: How the question is put; the answer comes first.
        asked: The question.
        shots: Worked examples before it.

    Returns:
        Shape (rotations, letters); every row sums to 1.
    """
    m = len(asked.question.options)
    tokens, opening = letter_tokens(model.tokenizer, m), model.tokenizer.encode(OPENINGS[style.format])
    rows = []
    for places in range(m):
        prompt = model.prompt(style.prompt(asked.question.rotated(places), shots))
        (row,) = forced_rows(model, [*prompt, *opening], [opening[-1]])
        rows.append(softmax(letter_logits(row.logits, tokens)))
    return np.stack(rows)


def letter_prior(shares: Sequence[Array]) -> Array:
    """PriDe's estimate of the model's prior for the letters (equations 5 and 6).

    Under all rotations every option stands at every letter once, so the mean log-probability of a letter depends on the
    letter alone: the geometric mean over rotations, normalised, then the mean over questions.

    Args:
        shares: Of each question, the letters' probabilities under each rotation: shape (rotations, letters).

    Returns:
        Shape (letters,); sums to 1.
    """
    each = [softmax(np.log(np.maximum(one, 1e-12)).mean(axis=0)) for one in shares]
    found: Array = np.mean(each, axis=0)
    return found


@dataclass(frozen=True)
class SelectionBias:
    """How the letters that are chosen differ from those that are right."""

    chosen: tuple[int, ...]
    """Times that each letter was chosen."""
    gold: tuple[int, ...]
    """Times that each letter was right."""
    distance: float
    """Total variation between the two as shares, from 0 to 1, of answers that were read. NaN: none was."""
    recall_sd: float
    """Standard deviation of the recall of each letter (RStd): 0 where all letters are found equally often."""

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return dict(vars(self))


def selection_bias(chosen: Sequence[str], gold: Sequence[str], letters: Sequence[str]) -> SelectionBias:
    """The bias of answers.

    Args:
        chosen: The letter of each answer; "" where none could be read.
        gold: The right letters.
        letters: All letters.

    >>> bias = selection_bias(["A", "A", "A", ""], ["A", "B", "A", "B"], "AB")
    >>> bias.chosen, bias.gold, bias.distance, bias.recall_sd
    ((3, 0), (2, 2), 0.5, 0.5)
    """
    counts = [sum(one == letter for one in chosen) for letter in letters]
    right = [sum(one == letter for one in gold) for letter in letters]
    total = sum(counts)
    distance = math.nan
    if total:
        distance = sum(abs(a / total - b / len(gold)) for a, b in zip(counts, right, strict=True)) / 2
    recalls = [
        sum(a == b == letter for a, b in zip(chosen, gold, strict=True)) / n
        for letter, n in zip(letters, right, strict=True)
        if n
    ]
    return SelectionBias(tuple(counts), tuple(right), distance, float(np.std(recalls)))
