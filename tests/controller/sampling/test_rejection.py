"""The one-node verifier: exact laws, golden acceptance vectors, the errors it must not make, and the loop around it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chisquare

from reasonctl.backends.toy import ToyTokenizer
from reasonctl.controller import (
    ROOT,
    Call,
    Candidates,
    Controller,
    Draft,
    Greedy,
    Keys,
    Proposal,
    Row,
    Sampling,
    Stateless,
    Trace,
    draw,
)
from reasonctl.controller.sampling.rejection import verify
from support.engines import Plain
from support.exact_probs import P, Q, draw_sequences, marginal
from support.statistics import ALPHA, DRAFT, TARGET, exact_three, merged_p_value

SHARP_P, SHARP_Q = np.array([0.01, 0.97, 0.01, 0.005, 0.005]), np.array([0.90, 0.06, 0.02, 0.01, 0.01])
CUT_P = np.array([0.7, 0.3, 0, 0, 0])
SPARSE_Q = np.array([0, 0.7, 0.3, 0, 0])
ONE_HOT = np.array([0, 1.0, 0, 0, 0])


@pytest.mark.parametrize("target", [P, SHARP_P, CUT_P, ONE_HOT, Q], ids=["P", "sharp", "cut", "one-hot", "same"])
@pytest.mark.parametrize("law", [Q, SHARP_Q, SPARSE_Q], ids=["Q", "sharp", "sparse"])
@pytest.mark.parametrize("replacement", [True, False])
def test_a_node_s_token_follows_the_target_exactly(target, law, replacement):
    for k in range(1, 6):
        out, _ = marginal(target, law, k, replacement)
        assert np.abs(out - target).max() < 1e-12


@pytest.mark.parametrize(
    "target, law, k, replacement, accepted",
    [
        (P, Q, 1, False, [0.65]),
        (P, Q, 2, True, [0.65, 0.0525]),
        (P, Q, 3, True, [0.65, 0.0525, 0.044625]),
        (P, Q, 2, False, [0.65, 0.088333]),
        (P, Q, 3, False, [0.65, 0.088333, 0.107724]),
        (P, Q, 5, False, [0.65, 0.088333, 0.107724, 0.098596, 0.055346]),
        (SHARP_P, SHARP_Q, 3, True, [0.09, 0.0546, 0.051324]),
        (SHARP_P, SHARP_Q, 3, False, [0.09, 0.535218, 0.265146]),
        (ONE_HOT, Q, 2, False, [0.5, 0.304094]),
    ],
)
def test_acceptance_by_rank(target, law, k, replacement, accepted):
    assert marginal(target, law, k, replacement)[1] == pytest.approx(accepted, abs=1e-6)


def test_acceptance_where_supports_differ():
    assert marginal(P, np.array([0, 0.7, 0.3, 0, 0]), 5, False)[1].sum() == pytest.approx(0.45)
    assert marginal(CUT_P, Q, 5, False)[1].sum() == pytest.approx(1.0)


# Six wrong verifiers; their exact distances from P (total variation) are known, so the test must see each of them.


def drawn(rng, law, k, replacement=False):
    out, left = [], law.copy()
    for _ in range(k):
        out.append(draw(left, rng.random()))
        if not replacement:
            left[out[-1]] = 0
    return tuple(out)


def emit(target, law, draws, rng, replacement=False):
    accepted, residual = verify(target, Proposal(law, draws, replacement), lambda i: rng.random())
    return draw(residual, rng.random()) if accepted is None else accepted


def no_residual(rng):
    (x,) = drawn(rng, Q, 1)
    return x if rng.random() * Q[x] < P[x] else draw(P, rng.random())


def discards_after_drawing(rng):
    (x,) = drawn(rng, Q, 1)
    return draw(P, rng.random()) if Q[x] < 0.2 else emit(P, Q, (x,), rng)


def ignores_what_was_struck_out(rng):
    return emit(P, Q, drawn(rng, Q, 2), rng, replacement=True)


def takes_the_argmax_as_if_drawn(rng):
    return emit(P, Q, (int(Q.argmax()),), rng)


def sorts_after_drawing(rng):
    return emit(P, Q, tuple(sorted(drawn(rng, Q, 2), key=lambda x: -Q[x])), rng)


TRUNCATED, WHOLE = np.array([0.7, 0.25, 0.05, 0, 0]), np.array([0.6, 0.24, 0.08, 0.05, 0.03])


def verifies_before_truncation(rng):
    return emit(WHOLE, Q, drawn(rng, Q, 1), rng)


WRONG = [
    (no_residual, P),
    (discards_after_drawing, P),
    pytest.param(ignores_what_was_struck_out, P, marks=pytest.mark.slow),
    (takes_the_argmax_as_if_drawn, P),
    (sorts_after_drawing, P),
    (verifies_before_truncation, TRUNCATED),
]


def p_value(sample, law) -> float:
    counts = np.bincount(sample, minlength=5).astype(float)
    if counts[law == 0].any():
        return 0.0
    return float(chisquare(counts[law > 0], law[law > 0] * len(sample)).pvalue)


@pytest.mark.parametrize("wrong, law", WRONG, ids=lambda x: getattr(x, "__name__", ""))
def test_planted_errors_are_caught(wrong, law):
    rng = np.random.default_rng(11)
    # 200,000 draws see the smallest error (a distance of 0.008) with probability above 0.9999; the others need less.
    n = 200_000 if wrong is ignores_what_was_struck_out else 10_000
    assert p_value([wrong(rng) for _ in range(n)], law) < ALPHA


@pytest.mark.parametrize("k, replacement", [(1, False), (3, False), (3, True)])
@pytest.mark.parametrize("n", [10_000, pytest.param(200_000, marks=pytest.mark.slow)])
def test_the_verifier_passes_the_test_that_catches_them(k, replacement, n):
    rng = np.random.default_rng(12)
    sample = [emit(P, Q, drawn(rng, Q, k, replacement), rng, replacement) for _ in range(n)]
    assert p_value(sample, P) > ALPHA


def test_known_distances_of_the_planted_errors():
    """The wrong laws computed exactly: the tests above would be worth little if the errors were not what they claim."""

    def distance(out):
        return 0.5 * np.abs(out - P).sum()

    least = np.minimum(P, Q)
    assert distance(least + (1 - least.sum()) * P) == pytest.approx(0.175)
    struck = sum(w * law_of_draws(draws, replacement=True) for w, draws in draw_sequences(Q, 2, False))
    assert distance(struck) == pytest.approx(0.00803, abs=1e-5)
    by_size = sum(
        w * law_of_draws(tuple(sorted(draws, key=lambda x: -Q[x]))) for w, draws in draw_sequences(Q, 2, False)
    )
    assert distance(by_size) == pytest.approx(0.182456, abs=1e-6)
    assert distance(law_of_draws((1,))) == pytest.approx(0.30)
    dropped = sum(Q[x] * (P if Q[x] < 0.2 else law_of_draws((x,))) for x in range(5))
    assert distance(dropped) == pytest.approx(0.1125)
    # The specification's sixth: a target at temperature 0.7 and top-p 0.9, verified as if it were not truncated.
    policy, logits = Sampling(temperature=0.7, top_p=0.9), np.array([2.0, 1.0, 0.5, 0.0, -1.0])
    kept, whole = policy.probs(logits), np.exp(logits / 0.7) / np.exp(logits / 0.7).sum()
    draft = np.exp(np.array([1.0, 1.8, 0.2, 0.1, -0.5]) / 0.7)
    out, _ = marginal(whole, draft / draft.sum(), 1, False)
    assert 0.5 * np.abs(out - kept).sum() == pytest.approx(0.049852, abs=1e-6)


def law_of_draws(draws, replacement=False):
    from support.exact_probs import node_probs

    return node_probs(P, Proposal(Q, draws, replacement))[0]


def test_unequal_vocabularies_and_truncated_targets():
    """Rows longer or shorter than the draft's law, and laws given by the ids that survived truncation."""
    candidates = Candidates(np.log([4.0, 3.0, 1.0]), np.array([0, 1, 3]))
    for law in (Q, np.append(Q * 0.9, 0.1), np.array([0.2, 0.8])):
        sample = []
        for i in range(5000):
            rng = np.random.default_rng(i)
            proposal = Proposal(law, (int(rng.choice(len(law), p=law)),))
            row = Row(Plain(np.zeros(4)), ROOT, [0], "answer", Keys(seed=3, run=i), proposal=proposal)
            sample.append(row.draw(candidates))
        assert p_value(sample, np.array([0.5, 0.375, 0, 0.125, 0])) > ALPHA


TOKENS = ToyTokenizer(list("abcde"))
N = 2000


class Drawn(Stateless):
    """A tree of two layers, drawn from the draft chain."""

    def __init__(self, first: int, second: int, replacement: bool) -> None:
        self.widths, self.replacement = (first, second), replacement

    def start(self, target):
        self.keys = target.keys
        return self

    def propose(self, tokens, room):
        nodes, parents, proposals, count = [], [], {}, 0
        layer = [(ROOT, tokens[-1])]
        for width in self.widths[:room]:
            below = []
            for parent, last in layer:
                law, draws = DRAFT.probs([last]).copy(), []
                left = law.copy()
                for _ in range(width):
                    if left.sum() > 0:
                        draws.append(draw(left, self.keys.uniform(len(tokens), 1, count)))
                        count += 1
                        if not self.replacement:
                            left[draws[-1]] = 0
                proposals[parent] = Proposal(law, tuple(draws), self.replacement)
                for token in dict.fromkeys(draws):
                    nodes.append(token)
                    parents.append(parent)
                    below.append((len(nodes) - 1, token))
            layer = below
        return Draft(tuple(nodes), tuple(parents), proposals)
        yield


def three_tokens(drafter, policy, n):
    counts, accepted = np.zeros((5, 5, 5)), 0
    for i in range(n):
        trace = Trace()
        call = Call([0], 3, frozenset(), Keys(seed=9, run=i), policy)
        counts[tuple(e.token for e in Controller(drafter=drafter).stream(TARGET.session(), TOKENS, call, trace))] += 1
        accepted += trace.accepted
    return counts, accepted


@pytest.mark.parametrize(
    "widths, replacement", [((1, 1), False), ((3, 2), False), ((3, 2), True)], ids=["chain", "tree", "replacement"]
)
@pytest.mark.parametrize("policy", [Sampling(), Sampling(temperature=0.7, top_p=0.9)], ids=["whole", "truncated"])
@pytest.mark.parametrize("n", [N, pytest.param(60_000, marks=pytest.mark.slow)])
def test_the_loop_keeps_the_law_under_drawn_drafts(widths, replacement, policy, n):
    counts, accepted = three_tokens(Drawn(*widths, replacement), policy, n)
    assert accepted > n / 2
    assert merged_p_value(counts, exact_three(policy)) > ALPHA


def test_ratio_tests_accept_more_than_following_the_sampled_token():
    """What the draft's probabilities are good for: without them a drawn token is accepted with sum P Q only."""

    class Forgotten(Drawn):
        def propose(self, tokens, room):
            draft = yield from super().propose(tokens, room)
            return Draft(draft.tokens, draft.parents)

    told = three_tokens(Drawn(1, 1, False), Sampling(), 3000)[1]
    untold = three_tokens(Forgotten(1, 1, False), Sampling(), 3000)[1]
    assert told > 1.2 * untold


def test_greedy_follows_drawn_drafts_without_a_test():
    plain = three_tokens(None, Greedy(), 1)[0]
    assert (three_tokens(Drawn(3, 2, False), Greedy(), 20)[0] == 20 * plain).all()


def test_the_first_branch_of_a_drawn_tree_keeps_the_first_draws():
    tree = Draft((3, 1, 4), (ROOT, ROOT, 0), {ROOT: Proposal(Q, (3, 1)), 0: Proposal(P, (4,))})
    chain = tree.first_branch()
    assert chain.tokens == (3, 4) and chain.proposals[ROOT].draws == (3,) and chain.proposals[0].probs is P
