"""Drafted equals plain in law, for every kind of policy, on models whose law is known; and what a test must catch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from scipy.stats import chisquare

from reasonctl.backends.toy import ToyEngine, ToyTokenizer
from reasonctl.controller import (
    Call,
    Controller,
    ControllerError,
    Decode,
    Draft,
    Keys,
    Markers,
    Policy,
    Row,
    RunContext,
    Stateless,
    Thinking,
    Trace,
    parse_policy,
)
from support.engines import Plain
from support.heads_files import heads_file, made_up
from support.policy_calls import CUED, LARGE_TEXTS, OPEN, ExitAtFirst
from support.together import together

# Five tokens: exact enumeration. Forty: chi-square.
TEXTS = ToyTokenizer(["a", "b", "c", "</think>", "Wait"])
SMALL = ToyEngine(vocabulary=5, order=3, seed=7, concentration=1.5)
LARGE = ToyEngine(vocabulary=40, order=2, seed=8, concentration=0.3)
PROMPT, LENGTH, CLOSE = [0, 1, 2, 1, 0], 4, 3

POLICIES = [
    "temperature(0.7) | top_p(0.9)",
    "min_p(0.2) | temperature(1.5)",
    "edt(t0=1.2,theta=0.5) | top_h(0.7)",
    "top_n_sigma(1) | dynatemp(t=0.9,range=0.6)",
    "ead(d=3,warmup=1)",
    "ead(d=2,warmup=0) | top_k(3)",
    "typical(0.8)",
    "eta(0.2) | temperature(0.8)",
    "epsilon(0.15)",
    "xtc(probability=0.5,threshold=0.2)",
    "mirostat(tau=1.2,eta=0.5)",
    "mirostat_v2(tau=1.2,eta=0.5)",
    "temperature(1.3) | mirostat_v2(tau=1,eta=0.9,feedback=llama)",
    "penalties(repeat=1.3,frequency=0.4,presence=0.2) | temperature(0.8)",
    "dry(multiplier=2,base=1.5,allowed_length=1,breakers=[]) | min_p(0.05)",
    "bad_words([[2,1],[0]]) | logit_bias([[1,0.5]]) | temperature(0.9)",
    'kl_guided(source="bcb",t0=1.3,sigma=0.5)',
    "think: mirostat_v2(tau=1.5,eta=0.8) ; answer: ead(d=4,warmup=2)",
    "penalties(repeat=1.2) | greedy",
    r'grammar("root ::= (\"ab\" | \"c\" \"a\"+ | [ab] \"</think>\")+") | temperature(1.4)',
    r'think: top_k(4) ; answer: grammar("root ::= (\"b\" | \"a\" \"c\")+")',
]


class Tree(Stateless):
    """Drafts the same bushy tree at every place: every token is a child of the root, two of them go on."""

    def __init__(self, vocabulary: int) -> None:
        self.vocabulary = vocabulary

    def propose(self, tokens: Sequence[int], room: int):
        v = min(self.vocabulary, 5)
        nodes = [*range(v), *range(v), *range(2), 3 % v]
        parents = [-1] * v + [1] * v + [2] * 2 + [v]
        if room < 3:
            nodes, parents = nodes[:-1], parents[:-1]
        return Draft(tuple(nodes), tuple(parents)) if room >= 2 else Draft()
        yield


class Told(Keys):
    """Uniforms of the test's own choosing."""

    def __init__(self, uniforms: Sequence[float], other: float = 0.25) -> None:
        super().__init__(seed=0)
        self.told, self.other = uniforms, other

    def uniform(self, position: int, purpose: int = 0, index: int = 0) -> float:
        return self.told[position - len(PROMPT)] if index == 0 else self.other


def run(engine: ToyEngine, policy, keys: Keys, drafter=None, length: int = LENGTH) -> tuple[list[int], Trace]:
    texts = TEXTS if engine is SMALL else LARGE_TEXTS
    call, trace = Call(PROMPT, length, frozenset(), keys, policy), Trace()
    controller = Controller(drafter=drafter, thinking=Thinking(Markers("cba", "</think>"), "</think>"))
    tokens = [event.token for event in controller.stream(engine.session(), texts, call, trace)]
    return tokens, trace


def settled(generator, engine: ToyEngine):
    """The value of a generator whose Decodes are answered."""
    step = None
    try:
        while True:
            item = generator.send(step)
            assert isinstance(item, Decode)
            (step,) = engine.forward((item,))
    except StopIteration as stop:
        return stop.value


class WithState(Plain):
    """One row whose hidden state is the toy model's."""

    def __init__(self, logits, tokens=(0,)):
        super().__init__(logits)
        self._tokens = tokens

    def hidden(self, node, layer):
        return np.array([self._tokens[-1], len(self._tokens) - 1, layer], dtype=np.float32)


def walk(policy, length: int) -> Iterator[tuple[list[int], list[tuple[float, float]]]]:
    """Every sequence that the policy can write, with the interval of uniforms of each of its tokens.

    Written without the loop: stages, then the next state for each token that is possible.
    """
    frame = RunContext(len(PROMPT), frozenset(), TEXTS, SMALL)

    def deeper(state, tokens, cells):
        if len(tokens) == len(PROMPT) + length:
            yield tokens[len(PROMPT) :], cells
            return
        told = Told([0.0] * length)
        phase = "answer" if CLOSE in tokens[len(PROMPT) :] else "think"
        row = Row(WithState(np.log(SMALL.probs(tokens)), tokens), -1, tokens, phase, told, frame)
        state = settled(policy.prepare(state, row), SMALL)
        law = policy.distribution(state, row).dense(SMALL.vocabulary)
        ends = np.cumsum(law)
        for token in np.flatnonzero(law):
            low, high = ends[token] - law[token], ends[token]
            told.told = [(low + high) / 2] * length
            after, drawn = policy.step(state, row)
            assert drawn == token
            yield from deeper(after, [*tokens, int(token)], [*cells, (low, high)])

    yield from deeper(policy.start(), list(PROMPT), [])


@pytest.mark.parametrize("text", POLICIES)
def test_drafted_is_plain_by_exact_enumeration(text):
    """Every sequence of three tokens is drawn from the box of uniforms whose volume is its probability.

    Points near opposite corners of each box are tried: the boxes fill the cube, so that equal maps have equal laws.
    """
    accepted = enumerate_drafted(parse_policy(text))
    assert accepted > 0 or "greedy" in text


def test_heads_read_each_drafted_row_s_own_state(tmp_path):
    """The same enumeration for AutoDeco, whose temperatures differ by the hidden state of the row."""
    path = heads_file(tmp_path / "h.safetensors")
    heads = made_up(3)
    told = [heads.at(np.array([token, 5.0, 2.0]), np.log(SMALL.probs([token]))) for token in range(5)]
    assert np.ptp(told, axis=0).min() > 0.05
    for text in ("autodeco(H)", "think: autodeco(H) ; answer: bad_words([[2]]) | autodeco(H)"):
        assert enumerate_drafted(parse_policy(text.replace("H", str(path)))) > 0


def enumerate_drafted(policy) -> int:
    """Asserts that drafted and plain runs are equal at every box of uniforms; the number of accepted tokens."""
    total, accepted = 0.0, 0
    for tokens, cells in walk(policy, 3):
        total += float(np.prod([high - low for low, high in cells]))
        for share in (0.01, 0.99):
            keys = Told([low + share * (high - low) for low, high in cells])
            drafted, trace = run(SMALL, policy, keys, Tree(5), 3)
            assert drafted == run(SMALL, policy, keys, None, 3)[0] == tokens
            accepted += trace.accepted
    assert total == pytest.approx(1.0, abs=1e-9)
    return accepted


N, ALPHA = 1_000, 1e-4
"""False-alarm rate 1e-4 per policy."""

QUICK = [POLICIES[11]]
OTHERS = [t for t in POLICIES if t not in QUICK and not any(n in t for n in ("kl_guided", "bad_words", "grammar"))]
OTHERS.append('grammar("root ::= ([\u4e00-\u4e10] [\u4e08-\u4e20] [\u4e05-\u4e27]?)+") | temperature(1.4)')


@pytest.mark.parametrize("text", [*QUICK, *(pytest.param(t, marks=pytest.mark.slow) for t in OTHERS)])
def test_drafted_is_plain_by_chi_square(text):
    """Forty tokens: drafted runs against plain runs with other keys, on the pair of the second and third token."""
    policy = parse_policy(text)
    counts = np.zeros((2, 16))
    for i in range(N):
        for side, (drafter, seed) in enumerate(((None, 5), (Tree(40), 6))):
            tokens, _ = run(LARGE, policy, Keys(seed=seed, run=i), drafter, 3)
            counts[side, tokens[1] % 4 * 4 + tokens[2] % 4] += 1
    assert same_law(*counts) > ALPHA


def same_law(a: np.ndarray, b: np.ndarray) -> float:
    """p-value of two samples of one law; cells with few counts are merged."""
    many = a + b >= 10
    table = np.array([[*side[many], side[~many].sum()] for side in (a, b)])
    table = table[:, table.sum(0) > 0]
    if table.shape[1] < 2:
        return 1.0
    expected = table.sum(1, keepdims=True) * table.sum(0) / table.sum()
    return float(chisquare(table.ravel(), expected.ravel(), ddof=table.shape[1]).pvalue)


# What the chi-square must catch: six wrong ways to verify a draft at one node, with a target P and a draft law Q.
P, Q = np.array([0.40, 0.30, 0.15, 0.10, 0.05]), np.array([0.10, 0.50, 0.25, 0.05, 0.10])
NODE = 200_000


ERRORS = ["no residual", "low tokens dropped", "mixed draws", "argmax draft", "sorted children", "untruncated target"]
TRUNCATED = np.array([0.7, 0.3, 0.0, 0.0, 0.0])
"""P at top-p 0.7, near enough: what the sixth verifier should have used."""


def pick(laws: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One token per row."""
    mass = np.cumsum(laws, axis=1)
    return (mass > rng.random((len(laws), 1)) * mass[:, -1:]).argmax(1)


def drafts(error: str, rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
    """(tokens, the law that each is said to come from) of the children, in the order in which they are tried."""
    rows, law = np.arange(NODE), np.tile(Q, (NODE, 1))
    if error == "argmax draft":
        return [(np.full(NODE, int(Q.argmax())), law)]
    children = []
    depth = {"none": 3, "mixed draws": 3, "sorted children": 2}.get(error, 1)
    for _ in range(depth):
        token = pick(law, rng)
        children.append((token, np.tile(Q, (NODE, 1)) if error == "mixed draws" else law))
        law = law.copy()
        law[rows, token] = 0
        law /= law.sum(1, keepdims=True)
    if error == "sorted children":
        tokens = np.stack([token for token, _ in children])
        tokens = np.take_along_axis(tokens, np.argsort(-Q[tokens], axis=0, kind="stable"), axis=0)
        children, law = [], np.tile(Q, (NODE, 1))
        for token in tokens:
            children.append((token, law))
            law = law.copy()
            law[rows, token] = 0
            law /= law.sum(1, keepdims=True)
    return children


def outputs(error: str) -> np.ndarray:
    """NODE tokens of a verifier with an error; "none" is right."""
    rng, rows = np.random.default_rng(11), np.arange(NODE)
    r, out = np.tile(P, (NODE, 1)), np.full(NODE, -1)
    for token, law in drafts(error, rng):
        if error == "low tokens dropped":
            low = law[rows, token] < 0.2
            out = np.where(low, pick(r, rng), out)
        accept = (out < 0) & (rng.random(NODE) * law[rows, token] < r[rows, token])
        out = np.where(accept, token, out)
        if error != "no residual":
            left = np.maximum(r - law, 0)
            mass = left.sum(1, keepdims=True)
            r = np.where(mass > 0, left / np.where(mass > 0, mass, 1), r)
    return np.where(out < 0, pick(r, rng), out)


def node_p_value(error: str) -> float:
    target = TRUNCATED if error == "untruncated target" else P
    counts = np.bincount(outputs(error), minlength=5)
    if counts[target == 0].any():
        return 0.0
    return float(chisquare(counts, NODE * target).pvalue)


@pytest.mark.parametrize("error", ERRORS)
def test_the_six_wrong_verifiers_are_caught(error):
    assert node_p_value(error) < ALPHA


def test_the_right_verifier_passes():
    assert node_p_value("none") > ALPHA


def test_a_wrong_verifier_has_the_law_that_the_specification_gives():
    """First and fifth of them: the error is the one that is meant. Tolerance: 5 standard deviations of a share."""
    shares = np.bincount(outputs("no residual"), minlength=5) / NODE
    assert shares == pytest.approx([0.24, 0.405, 0.2025, 0.085, 0.0675], abs=0.006)
    shares = np.bincount(outputs("sorted children"), minlength=5) / NODE
    assert np.abs(shares - P).sum() / 2 == pytest.approx(0.182456, abs=0.006)


STEERED = "mirostat_v2(tau=2,eta=0.9)"


class Forgets(Policy):
    """Mirostat with its state outside: what a rejected or retracted token did to it stays."""

    def __init__(self) -> None:
        self.inner = parse_policy(STEERED)
        self.state = self.inner.start()

    def start(self):
        return None

    def step(self, state, row):
        self.state, token = self.inner.step(self.state, row)
        return None, token


def exits(policy) -> list[tuple[list[int], list[int]]]:
    """(tokens, those of a fresh run from the same prefix and state) for runs that exited."""
    found = []
    for seed in range(60):
        call, trace = Call([5, 0], 25, frozenset(), Keys(seed=seed), policy()), Trace()
        list(Controller(exit=ExitAtFirst()).stream(CUED.session(), OPEN, call, trace))
        if trace.exit is not None and not trace.repeated:  # a second close would be taken back
            start, length = trace.forced
            # Plain steps over the same tokens: the state before the cue, then on from behind the suffix.
            chain, tokens = parse_policy(STEERED), [5, 0, *trace.tokens[:start]]
            state, keys = chain.start(), Keys(seed=seed)
            for at in range(2, len(tokens)):
                row = Row(WithState(np.log(CUED.probs(tokens[:at]))), -1, tokens[:at], "think", keys)
                state, token = chain.step(state, row)
                assert token == tokens[at]
            tokens += trace.tokens[start : start + length]
            while len(tokens) < 27:
                row = Row(WithState(np.log(CUED.probs(tokens))), -1, tokens, "answer", keys)
                state, token = chain.step(state, row)
                tokens.append(token)
            found.append((trace.tokens, tokens[2:]))
    return found


def test_an_exit_takes_the_state_back_with_the_cue():
    right = exits(lambda: parse_policy(STEERED))
    assert len(right) > 10 and all(got == expected for got, expected in right)
    wrong = exits(Forgets)
    assert any(got != expected for got, expected in wrong)


def test_a_policy_s_own_forwards_share_a_batch():
    """Two guided loops in one driver write what each writes alone."""
    policy = parse_policy('kl_guided(source="bcb",t0=1.3,sigma=0.5) | min_p(0.01)')
    engine = ToyEngine(vocabulary=5, order=3, seed=7, concentration=1.5)

    def call(run: int) -> Call:
        return Call(PROMPT, 8 + run, frozenset(), Keys(seed=3, run=run), policy)

    loops = [Controller().loop(engine.session(), TEXTS, call(run), Trace()) for run in range(2)]
    got = together(loops)
    assert engine.forwards == 2 * 9  # one forward for the row and one without the source, for both loops at once
    assert got == [[e.token for e in Controller().stream(SMALL.session(), TEXTS, call(run))] for run in range(2)]


def test_phases_need_markers():
    policy = parse_policy("think: temperature(1); answer: greedy")
    call = Call(PROMPT, 3, frozenset(), Keys(seed=0), policy)
    with pytest.raises(ControllerError, match="say how thinking is marked"):
        list(Controller().stream(SMALL.session(), TEXTS, call))
