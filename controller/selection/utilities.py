"""How much one text agrees with another: the utilities of minimum Bayes risk decoding."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from ..core.decode import Floats
from ..core.errors import ControllerError

Utility: TypeAlias = Callable[[str, str], float]
"""How much a candidate (first) agrees with a reference (second); 1 is the most for those in this file."""


class AllPairs(ABC):
    """A utility that compares all texts at once."""

    @abstractmethod
    def matrix(self, texts: Sequence[str]) -> Floats:
        """Shape (n, n): the utility of each text (row) with each as its reference (column).

        Args:
            texts: distinct ones.
        """


_MOST_PRODUCT = 4_000_000
"""Most cells of one longest-common-subsequence table: texts of 2,000 words each."""


def exact(candidate: str, reference: str) -> float:
    """1 for equal texts, else 0. Under it `mbr` is a majority vote.

    >>> exact("yes", "yes"), exact("yes", "no")
    (1.0, 0.0)
    """
    return float(candidate == reference)


def sim_lcs(candidate: str, reference: str) -> float:
    """Length of the longest common subsequence of words over that of the longer text (Sim-LCS).

    Source: Suzgun et al. 2023, "Follow the Wisdom of the Crowd", section 3.2. Two texts without words are equal.

    Raises:
        ControllerError: the texts are too long to compare.

    >>> round(sim_lcs("the cat sat on the mat", "the cat sat on a mat"), 4), sim_lcs("", "")
    (0.8333, 1.0)
    """
    a, b = candidate.split(), reference.split()
    if not a and not b:
        return 1.0
    if a == b:
        return 1.0
    if len(a) * len(b) > _MOST_PRODUCT:
        raise ControllerError(
            f"texts of {len(a)} and {len(b)} words are too long for sim_lcs, which compares at most 2,000 with 2,000; "
            "compare their answers"
        )
    return _common_words(a, b) / max(len(a), len(b))


def _common_words(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence, a row of the table at a time."""
    numbers = {word: i for i, word in enumerate(dict.fromkeys([*a, *b]))}
    columns = np.array([numbers[word] for word in b], dtype=np.int64)
    row = np.zeros(len(b) + 1, dtype=np.int64)
    for word in a:
        longer = np.where(columns == numbers[word], row[:-1] + 1, row[1:])
        row[1:] = np.maximum.accumulate(longer)
    return int(row[-1])


def utility_matrix(texts: Sequence[str], utility: Utility | AllPairs) -> Floats:
    """Shape (n, n): the utility of each text (row) with each as its reference (column).

    Equal texts are compared once. A utility that is NaN counts as 0.

    Args:
        texts: one for each sample.
        utility: any function of a candidate and a reference, or one that compares all texts at once.

    Raises:
        ControllerError: a library that the utility needs isn't installed, or its matrix has another shape.

    >>> utility_matrix(["a", "b", "a"], exact).tolist()
    [[1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 1.0]]
    """
    distinct = list(dict.fromkeys(texts))
    numbers = [distinct.index(text) for text in texts]
    if isinstance(utility, AllPairs):
        table = np.asarray(utility.matrix(distinct), dtype=np.float64)
    else:
        table = np.array([[utility(one, other) for other in distinct] for one in distinct], dtype=np.float64)
    if table.size != len(distinct) ** 2:
        raise ControllerError(f"the utility's matrix has the shape {table.shape} for {len(distinct)} texts")
    return np.nan_to_num(table.reshape(len(distinct), len(distinct)), nan=0.0)[np.ix_(numbers, numbers)]
