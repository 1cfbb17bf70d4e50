"""Which of several samples of one prompt is the answer: a vote, minimum Bayes risk, or the most probable one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..core.decode import Floats
from ..core.errors import ControllerError


@dataclass(frozen=True)
class Choice:
    """The sample that was chosen."""

    index: int
    """Its number among the samples; the first one of its class, or of equal scores."""
    share: float
    """Its score over the sum of all: for a vote, the share of the votes."""
    scores: tuple[float, ...]
    """Each sample's score: votes of its class, mean utility, or log-probability."""


class AnswerClasses:
    """Sorts answers into classes, one after the other: an answer joins the first class with one that is the same.

    Classes are numbered in the order in which they appear. An answer's class depends on those before it only, so a
    vote that stops early has the classes of the full vote.
    """

    def __init__(self, same: Callable[[str, str], bool]) -> None:
        """No class yet.

        Args:
            same: whether two answers are the same; each pair of distinct texts is asked about at most once.
        """
        self.labels: list[int | None] = []
        """The class of each answer so far."""
        self._same = same
        self._members: list[list[str]] = []
        self._known: dict[str, int] = {}

    def add(self, answer: str) -> int | None:
        """The class of the next answer; None for "", an answer that votes for nothing."""
        label = self._class_of(answer) if answer else None
        self.labels.append(label)
        return label

    def _class_of(self, answer: str) -> int:
        if answer not in self._known:
            equal = (i for i, texts in enumerate(self._members) if any(self._same(text, answer) for text in texts))
            number = next(equal, len(self._members))
            if number == len(self._members):
                self._members.append([])
            self._members[number].append(answer)
            self._known[answer] = number
        return self._known[answer]


def answer_classes(answers: Sequence[str], same: Callable[[str, str], bool]) -> list[int | None]:
    """The class of each of some answers, see `AnswerClasses`.

    Args:
        answers: the stated answer of each sample; "" where a sample states none.
        same: whether two answers are the same.

    >>> answer_classes(["1/2", "", "0.5", "7"], lambda a, b: {a, b} == {"1/2", "0.5"})
    [0, None, 0, 1]
    """
    classes = AnswerClasses(same)
    for answer in answers:
        classes.add(answer)
    return classes.labels


def vote(classes: Sequence[int | None], weights: Sequence[float] | Floats | None = None) -> Choice | None:
    """The class with the most votes; of equal ones, the one that came first. None if no sample has an answer.

    Args:
        classes: each sample's, see `answer_classes`.
        weights: the weight of each vote; None: one each.

    Raises:
        ControllerError: weights are missing, negative, or all 0.

    >>> vote([0, 1, 1, None]).index, vote([0, 1]).share, vote([None])
    (1, 0.5, None)
    """
    given = _weights(weights, len(classes))
    counted = [label for label in classes if label is not None]
    if not counted:
        return None
    votes = np.zeros(max(counted) + 1)
    for label, weight in zip(classes, given, strict=True):
        if label is not None:
            votes[label] += weight
    first = {label: classes.index(label) for label in set(counted)}
    best = min(first, key=lambda label: (-votes[label], first[label]))
    scores = tuple(0.0 if label is None else float(votes[label]) for label in classes)
    total = float(votes.sum())
    return Choice(first[best], float(votes[best]) / total if total else 0.0, scores)


def mbr(utilities: Floats, weights: Sequence[float] | Floats | None = None) -> Choice:
    """The sample that agrees most with all samples, itself included (minimum Bayes risk, "crowd sampling").

    Source: Suzgun et al. 2023, section 3. Under the utility `exact` it is the majority vote.

    Args:
        utilities: shape (n, n), rows are candidates and columns references, see `utility_matrix`.
        weights: the weight of each sample as a reference; None: equal ones.

    Raises:
        ControllerError: there is no sample, or weights are missing, negative, or all 0.

    >>> import numpy as np
    >>> mbr(np.array([[1.0, 0.2], [0.6, 1.0]])).index
    1
    """
    if not len(utilities):
        raise ControllerError("there is no sample to choose from; draw at least 1")
    given = _weights(weights, len(utilities))
    means = utilities @ (given / given.sum())
    best = int(np.argmax(means))
    total = float(means.sum())
    return Choice(best, float(means[best]) / total if total > 0 else 0.0, tuple(map(float, means)))


def best_logprob(means: Sequence[float]) -> Choice:
    """The sample with the highest mean log-probability of its tokens.

    Args:
        means: of each sample, in nats a token.

    Raises:
        ControllerError: there is no sample.
    """
    if not len(means):
        raise ControllerError("there is no sample to choose from; draw at least 1")
    best = int(np.argmax(means))
    shares = np.exp(np.asarray(means) - means[best])
    return Choice(best, float(1 / shares.sum()), tuple(map(float, means)))


def _weights(weights: Sequence[float] | Floats | None, n: int) -> Floats:
    if weights is None:
        return np.ones(n)
    given = np.asarray(weights, dtype=np.float64)
    if given.shape != (n,):
        raise ControllerError(f"{len(given)} weights for {n} samples; give one for each")
    if n and not (np.isfinite(given).all() and (given >= 0).all() and given.sum() > 0):
        raise ControllerError("weights must be finite and at least 0, and not all of them 0")
    return given
