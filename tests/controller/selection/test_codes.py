"""Arithmetic codes: each sample alone has the policy's distribution, and together they are spread evenly over it."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest

from reasonctl.backends.toy import ToyEngine, ToyTokenizer
from reasonctl.controller import Call, Controller, ControllerError, Keys, PromptLookup, Trace, parse_policy
from reasonctl.controller.selection import ArithmeticCode, arithmetic_codes
from reasonctl.controller.selection.codes import narrow

TOKENIZER = ToyTokenizer(["a", "b", "c", "d"])
LENGTH = 4


def engine() -> ToyEngine:
    return ToyEngine(vocabulary=4, order=1, seed=3)


def sample(
    code: float, *, policy: str = "temperature(1)", seed: int = 1, run: int = 0, length: int = LENGTH, drafter=None
):
    coded = ArithmeticCode(parse_policy(policy), code)
    call = Call([0], length, frozenset(), Keys(seed=seed, run=run), coded)
    made = engine()
    session = made.session()
    trace = Trace()
    list(Controller(drafter=drafter).stream(session, TOKENIZER, call, trace))
    return tuple(trace.tokens)


def probability(tokens: tuple[int, ...]) -> float:
    made, text, product = engine(), [0], 1.0
    for token in tokens:
        product *= float(made.probs(text)[token])
        text.append(token)
    return product


def test_the_golden_codes() -> None:
    first = np.array([0.5, 0.3, 0.2])
    second = np.array([[0.6, 0.4, 0.0], [0.1, 0.1, 0.8], [0.25, 0.25, 0.5]])
    drawn = []
    for code in (0.37, 0.57, 0.77, 0.97):
        one = narrow(first, code, 0.0)
        two = narrow(second[one.drawn], one.code, 0.0)
        drawn.append((one.drawn, two.drawn, round(one.code, 4), round(two.code, 4)))
    assert drawn == [(0, 1, 0.74, 0.35), (1, 2, 0.2333, 0.0417), (1, 2, 0.9, 0.875), (2, 2, 0.85, 0.7)]


def test_each_sample_has_the_models_distribution() -> None:
    """Over a fine grid of shifts the texts of one sample have their probabilities, each within a cell of the grid."""
    cells = 2000
    counts = Counter(sample((i + 0.5) / cells, length=3) for i in range(cells))
    for tokens in itertools.product(range(4), repeat=3):
        assert abs(counts[tokens] / cells - probability(tokens)) <= 1.01 / cells, tokens


@pytest.mark.parametrize(
    "policy", ["temperature(0.7) | top_p(0.8)", "min_p(0.2)", "mirostat_v2(3, 0.2)", "xtc(0.1, 0.5)"]
)
def test_a_chain_of_any_stages_keeps_its_distribution(policy: str) -> None:
    """Against independent draws of the same chain: a chi-square test of both samples, false alarm 1 in 1,000."""
    from scipy.stats import chi2_contingency

    n = 600
    coded = Counter(
        sample(code, policy=policy, seed=seed, run=i, length=2)
        for seed in range(n // 4)
        for i, code in enumerate(arithmetic_codes(4, Keys(seed=seed)))
    )
    made, plain = engine(), Counter()
    for seed in range(n):
        call = Call([0], 2, frozenset(), Keys(seed=10_000 + seed), parse_policy(policy))
        trace = Trace()
        list(Controller().stream(made.session(), TOKENIZER, call, trace))
        plain[tuple(trace.tokens)] += 1
    common = [text for text in coded | plain if coded[text] + plain[text] >= 20]
    table = np.array([[coded[text] for text in common], [plain[text] for text in common]])
    assert set(coded) <= set(plain) | {text for text in coded if coded[text] < 10}
    assert chi2_contingency(table).pvalue > 1e-3


def test_a_rare_text_is_drawn_once_at_most() -> None:
    n = 16
    for seed in range(40):
        codes = arithmetic_codes(n, Keys(seed=seed))
        counts = Counter(sample(code, seed=seed, run=i) for i, code in enumerate(codes))
        for tokens, count in counts.items():
            width = probability(tokens)
            assert count <= int(width * n) + 1
            assert count == 1 or width > 1 / (n + 1)


def test_independent_draws_repeat_rare_texts() -> None:
    """The negative control of the test above."""
    n, repeated = 16, 0
    for seed in range(40):
        drawn = Counter()
        for run in range(n):
            trace = Trace()
            call = Call([0], LENGTH, frozenset(), Keys(seed=seed, run=run), parse_policy("temperature(1)"))
            list(Controller().stream(engine().session(), TOKENIZER, call, trace))
            drawn[tuple(trace.tokens)] += 1
        repeated += sum(count > 1 and probability(tokens) < 1 / (n + 1) for tokens, count in drawn.items())
    assert repeated > 20


def test_a_long_text_stays_random() -> None:
    """A code has 53 bits, and 400 tokens use up many times as many: late tokens still have their distribution."""
    made, late = engine(), Counter()
    transitions = np.zeros((4, 4))
    for seed in range(60):
        tokens = sample(arithmetic_codes(1, Keys(seed=seed))[0], seed=seed, length=400)
        for before, after in itertools.pairwise(tokens[200:]):
            transitions[before, after] += 1
        late[tokens[-1]] += 1
    for before in range(4):
        expected = made.probs([before]) * transitions[before].sum()
        kept = expected > 5
        distance = ((transitions[before] - expected) ** 2 / np.maximum(expected, 1e-12))[kept].sum()
        assert distance < 25, (before, distance)  # chi-square of 3 degrees: above 25 in 2 of 100,000
    assert len(late) == 4


def test_neighbours_stay_together_until_their_tokens_differ() -> None:
    """Fresh low bits never move a code past its neighbour: two samples share a prefix of probability 1 - 1/n."""
    codes = [0.4, 0.4 + 2**-30]
    one, other = (sample(code, seed=1, run=i, length=8) for i, code in enumerate(codes))
    shared = next((i for i, pair in enumerate(zip(one, other, strict=True)) if pair[0] != pair[1]), 8)
    assert probability(one[:shared]) < 2**-5 or shared == 8


def test_a_drafted_sample_is_the_plain_one() -> None:
    for seed in range(20):
        code = arithmetic_codes(1, Keys(seed=seed))[0]
        plain = sample(code, seed=seed, length=60)
        assert sample(code, seed=seed, length=60, drafter=PromptLookup()) == plain


def test_greedy_leaves_the_code() -> None:
    assert sample(0.99, policy="greedy") == sample(0.01, policy="greedy")


def test_weights_of_zero_are_never_drawn() -> None:
    weights = np.array([0.0, 0.3, 0.0, 0.7, 0.0])
    for code in (0.0, 0.3, np.nextafter(0.3, 0), 1 - 2.0**-53):
        drawn = narrow(weights, float(code), 0.999)
        assert weights[drawn.drawn] > 0 and 0 <= drawn.code < 1


def test_impossible_codes_are_refused() -> None:
    for code in (-0.1, 1.0, float("nan")):
        with pytest.raises(ControllerError, match="at least 0 and below 1"):
            ArithmeticCode(parse_policy("temperature(1)"), code)
    with pytest.raises(ControllerError, match="at least 1 sample"):
        arithmetic_codes(0, Keys(seed=0))
    with pytest.raises(ControllerError, match="distribution is broken"):
        narrow(np.array([np.nan, 1.0]), 0.5, 0.5)
