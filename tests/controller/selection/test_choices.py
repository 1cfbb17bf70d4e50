"""Votes, minimum Bayes risk and the rules that stop a vote early."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from reasonctl.controller import ControllerError
from reasonctl.controller.selection import (
    AnswerClasses,
    BetaStop,
    LosslessStop,
    ShareStop,
    answer_classes,
    best_logprob,
    exact,
    mbr,
    samples_read,
    sim_lcs,
    utility_matrix,
    vote,
)

CROWD = [
    "the cat sat on the mat",
    "the cat sat on a mat",
    "a dog ran",
    "the cat sat on the mat",
    "the cat is on the mat",
]


def test_the_golden_crowd() -> None:
    lcs = utility_matrix(CROWD, sim_lcs)
    assert utility_matrix(CROWD, exact).sum(axis=1).tolist() == [2, 1, 1, 2, 1]
    assert lcs.sum(axis=1).round(4).tolist() == [3.6667, 3.5, 1.1667, 3.6667, 3.3333]
    assert mbr(lcs).index == 0


def test_a_crowd_can_outvote_the_vote() -> None:
    texts = ["yes", "no maybe later", "no maybe today", "no maybe now", "yes"]
    assert utility_matrix(texts, sim_lcs).sum(axis=1).round(4).tolist() == [2, 2.3333, 2.3333, 2.3333, 2]
    assert mbr(utility_matrix(texts, sim_lcs)).index == 1
    classes = answer_classes(texts, str.__eq__)
    chosen = vote(classes)
    assert chosen is not None and texts[chosen.index] == "yes"


def test_exact_utility_is_the_vote() -> None:
    """On every way in which five samples can agree, weighted and not."""
    rng = np.random.default_rng(1)
    for labels in itertools.product("abc", repeat=5):
        for weights in (None, rng.uniform(0.1, 1, 5)):
            chosen = vote(answer_classes(labels, str.__eq__), weights)
            assert chosen is not None
            assert labels[chosen.index] == labels[mbr(utility_matrix(labels, exact), weights).index]


def test_equal_answers_are_never_split() -> None:
    def same(a: str, b: str) -> bool:
        return eval(a) == eval(b)

    classes = answer_classes(["1/2", "2/4", "0.5", "1/3", "", "0.50"], same)
    assert classes == [0, 0, 0, 1, None, 0]


def test_a_class_depends_on_nothing_later() -> None:
    """Also under an equality that isn't transitive: |a - b| <= 1."""
    answers = ["1", "3", "2", "9"]

    def near(a: str, b: str) -> bool:
        return abs(int(a) - int(b)) <= 1

    whole = answer_classes(answers, near)
    assert whole == [0, 1, 0, 2]
    assert all(answer_classes(answers[:read], near) == whole[:read] for read in range(5))


def test_each_pair_is_asked_about_once():
    """A grader's equality may take a process of its own."""
    asked = []
    classes = AnswerClasses(lambda a, b: bool(asked.append((a, b))) or a == b)
    for answer in "abacabca":
        classes.add(answer)
    assert classes.labels == [0, 1, 0, 2, 0, 1, 2, 0] and len(asked) == len(set(asked)) == 3


def test_lcs_against_a_table_filled_cell_by_cell() -> None:
    rng = np.random.default_rng(4)

    def slow(a: list[str], b: list[str]) -> int:
        table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
        for i, j in itertools.product(range(len(a)), range(len(b))):
            longer = table[i][j] + 1 if a[i] == b[j] else max(table[i][j + 1], table[i + 1][j])
            table[i + 1][j + 1] = longer
        return table[-1][-1]

    for _ in range(200):
        a, b = (list(rng.choice(list("abcd"), rng.integers(1, 12))) for _ in range(2))
        assert sim_lcs(" ".join(a), " ".join(b)) == pytest.approx(slow(a, b) / max(len(a), len(b)))


def test_a_broken_utility_counts_nothing() -> None:
    table = utility_matrix(["a", "b"], lambda one, other: float("nan") if one != other else 1.0)
    assert table.tolist() == [[1, 0], [0, 1]]


def test_texts_that_are_too_long_are_refused() -> None:
    with pytest.raises(ControllerError, match="too long for sim_lcs"):
        sim_lcs("a " * 3000, "b " * 3000)


def test_no_sample_and_no_answer() -> None:
    assert vote([None, None]) is None
    for nothing in (lambda: mbr(np.zeros((0, 0))), lambda: best_logprob([])):
        with pytest.raises(ControllerError, match="no sample to choose from"):
            nothing()
    for weights in ([1.0], [0.0, 0.0], [-1.0, 2.0], [float("nan"), 1.0]):
        with pytest.raises(ControllerError, match="weights"):
            vote([0, 1], weights)


def test_the_most_probable() -> None:
    chosen = best_logprob([-0.5, -0.2, -0.9])
    assert chosen.index == 1 and 0 < chosen.share < 1


# Stopping


def winner(classes: list[int | None]) -> int | None:
    chosen = vote(classes)
    return None if chosen is None else classes[chosen.index]


def test_a_lossless_stop_never_changes_the_vote() -> None:
    """On all 4^7 votes of seven samples, of three classes or none; and it stops before the end in many of them."""
    early = 0
    for drawn in itertools.product([0, 1, 2, None], repeat=7):
        names: dict[int, int] = {}
        classes = [None if label is None else names.setdefault(label, len(names)) for label in drawn]
        read = samples_read(LosslessStop(), classes)
        assert winner(classes[:read]) == winner(classes), (classes, read)
        early += read < 7
    assert early > 4**7 / 2


def test_a_lossless_stop_is_as_early_as_it_can_be() -> None:
    """Where it goes on, some continuation changes the winner: all votes of five samples."""
    for drawn in itertools.product([0, 1, None], repeat=5):
        names: dict[int, int] = {}
        classes = [None if label is None else names.setdefault(label, len(names)) for label in drawn]
        for read in range(1, 5):
            if LosslessStop().stops(classes[:read], 5):
                continue
            ends = itertools.product([0, 1, 2, 3, None], repeat=5 - read)
            assert len({winner([*classes[:read], *end]) for end in ends}) > 1, classes[:read]


def test_a_stop_of_one_vote_less_would_change_votes() -> None:
    """The negative control: a rule that stops one vote too early is caught by the same enumeration."""

    class TooEarly(LosslessStop):
        def stops(self, classes, n):
            return super().stops(classes, n - 1) and len(classes) > 1

    wrong = 0
    for drawn in itertools.product([0, 1], repeat=6):
        names: dict[int, int] = {}
        classes = [names.setdefault(label, len(names)) for label in drawn]
        wrong += winner(classes[: samples_read(TooEarly(), classes)]) != winner(classes)
    assert wrong > 0


def test_the_beta_rule_is_the_closed_form() -> None:
    """P(Beta(a + 1, b + 1) > 1/2) by summing the binomial: the two are one number."""
    from math import comb

    def closed(a: int, b: int) -> float:
        n = a + b + 1
        return sum(comb(n, k) for k in range(a + 1)) / 2**n

    for a, b in itertools.product(range(1, 8), range(8)):
        if b > a:
            continue
        classes: list[int | None] = [0] * a + [1] * b
        assert BetaStop(0.9).stops(classes, 100) == (closed(a, b) >= 0.9), (a, b)


def test_rules_end_at_the_last_sample() -> None:
    for rule in (LosslessStop(), BetaStop(0.999), ShareStop(1.0)):
        assert samples_read(rule, [0, 1, 0, 1]) <= 4 and rule.stops([0, 1, 0, 1], 4)
        assert samples_read(rule, [None, None]) == 2


def test_impossible_rules_are_refused() -> None:
    for confidence in (0.5, 1.0, float("nan")):
        with pytest.raises(ControllerError, match="above 0.5 and below 1"):
            BetaStop(confidence)
    with pytest.raises(ControllerError, match="at least 1 sample"):
        ShareStop(0.5, least=0)
