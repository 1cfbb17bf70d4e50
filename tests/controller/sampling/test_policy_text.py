"""The text form of policies: round trips, one-line mistakes, and orders that make no sense."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasonctl.controller import (
    DRY,
    EAD,
    EDT,
    XTC,
    BadWords,
    Chain,
    ControllerError,
    Dynatemp,
    Epsilon,
    Eta,
    Greedy,
    Keys,
    KLGuided,
    LogitBias,
    MinNewTokens,
    MinP,
    Mirostat,
    MirostatV2,
    Penalties,
    PerPhase,
    Row,
    RunContext,
    Temperature,
    TopH,
    TopK,
    TopNSigma,
    TopP,
    Typical,
    log_z,
    parse_policy,
)
from reasonctl.controller.sampling.parse import STAGES
from support.engines import Plain

unit = st.floats(1e-6, 1.0, exclude_max=True)
positive = st.floats(1e-3, 1e3)
ids = st.integers(0, 9)

CONSTRAINTS = [
    st.builds(
        Penalties,
        repeat=positive,
        frequency=st.floats(-2, 2),
        presence=st.floats(-2, 2),
        last_n=st.integers(0, 99),
        prompt=st.booleans(),
        skip=st.integers(0, 9),
    ),
    st.builds(LogitBias, st.lists(st.tuples(ids, st.floats(-9, 9)), max_size=3).map(tuple)),
    st.builds(BadWords, st.lists(st.lists(ids, min_size=1, max_size=3).map(tuple), min_size=1, max_size=3).map(tuple)),
    st.builds(MinNewTokens, st.integers(0, 9)),
    st.builds(
        DRY,
        multiplier=st.floats(0, 5),
        base=st.floats(1, 4),
        allowed_length=st.integers(1, 4),
        breakers=st.lists(st.text(max_size=4), max_size=3).map(tuple),
    ),
]
TEMPERATURES = [
    st.builds(Temperature, positive),
    st.builds(EDT, positive, st.floats(0, 50)),
    st.builds(Dynatemp, positive, st.floats(0, 3), st.floats(0, 9)),
    st.builds(EAD, d=positive, t_min=st.floats(0.01, 1.0), t_max=st.floats(1.0, 3.0), warmup=st.integers(0, 20)),
]
TRUNCATIONS = [
    st.builds(TopK, st.integers(0, 50)),
    st.builds(TopP, unit),
    st.builds(MinP, st.floats(0, 1)),
    st.builds(Typical, unit),
    st.builds(Epsilon, unit),
    st.builds(Eta, unit),
    st.builds(TopH, unit, st.sampled_from(["renormalised", "partial"])),
    st.builds(XTC, st.floats(0, 1), st.floats(0.01, 0.5)),
]
FEEDBACK = [
    st.builds(kind, tau=st.floats(0.05, 20), eta=st.floats(0.01, 5), feedback=st.sampled_from(["model", "llama"]))
    for kind in (Mirostat, MirostatV2)
]


@st.composite
def chains(draw) -> Chain:
    """Any chain in an order that makes sense."""
    chosen = draw(st.lists(st.sampled_from(range(len(CONSTRAINTS))), unique=True, max_size=3))
    constraints = [draw(CONSTRAINTS[i]) for i in chosen]
    temperature = [draw(draw(st.sampled_from(TEMPERATURES)))] if draw(st.booleans()) else []
    match draw(st.sampled_from(["greedy", "feedback", "truncation"])):
        case "greedy":
            return Greedy(*constraints)
        case "feedback":
            return Chain(*constraints, *temperature, draw(draw(st.sampled_from(FEEDBACK))))
    picked = draw(st.lists(st.sampled_from(range(len(TRUNCATIONS))), unique=True, max_size=4))
    cuts = [draw(TRUNCATIONS[i]) for i in picked]
    cuts = [draw(st.builds(TopNSigma, positive))] * draw(st.integers(0, 1)) + cuts
    at = draw(st.integers(0, len(cuts)))
    return Chain(*constraints, *cuts[:at], *temperature, *cuts[at:])


policies = st.one_of(chains(), st.builds(PerPhase, chains(), chains()))


@settings(max_examples=80, deadline=None, derandomize=True)
@given(policies)
def test_text_and_object_are_one(policy):
    text = str(policy)
    assert parse_policy(text) == policy
    assert str(parse_policy(text)) == text
    assert "\n" not in text


@pytest.mark.parametrize(
    "source",
    ['a | b ; c) "quoted" \\ {', "think: x", "naïve\n|", "true", "null", "nan", "NaN", "inf", "Infinity", "none", "x1"],
)
def test_any_source_text_survives(source):
    policy = Chain(KLGuided(source, sigma=0.5), MinP(0.1))
    assert parse_policy(str(policy)) == policy
    phases = PerPhase(policy, Greedy())
    assert parse_policy(str(phases)) == phases


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text(min_size=1, max_size=8))
def test_any_source_at_all_survives(source):
    policy = Chain(KLGuided(source), MinP(0.1))
    assert parse_policy(str(policy)) == policy


@pytest.mark.parametrize(
    "stage", [XTC(0.5), EAD(d=3), MinNewTokens(3), Penalties(repeat=2.0), BadWords(((2, 1),)), MinP(0.1)], ids=str
)
def test_a_law_without_a_row_is_one_clear_error_where_the_row_matters(stage):
    chain, logits = Chain(stage), np.zeros(5)
    if isinstance(stage, MinP):
        assert chain.probs(logits).tolist() == [0.2] * 5 and log_z(chain, logits) == 0.0
        return
    for asked in (chain.probs, lambda row: log_z(chain, row)):
        with pytest.raises(ControllerError, match="reads more than logits"):
            asked(logits)


def test_every_stage_has_a_text_and_defaults_are_left_out():
    assert str(EDT()) == "edt" and str(EDT(0.8, 0.4)) == "edt(t0=0.8,theta=0.4)" and str(MinP(0.05)) == "min_p(0.05)"
    assert str(MirostatV2(3.0, feedback="llama")) == "mirostat_v2(tau=3,feedback=llama)"
    assert parse_policy("edt") == Chain(EDT()) and parse_policy("mirostat") == Chain(Mirostat())
    assert set(STAGES) >= {
        stage.name for stage in (Temperature, EDT, EAD, KLGuided, TopH, XTC, DRY, Mirostat, MirostatV2)
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tempratur(1)", "did you mean temperature?"),
        ("min-p(0.1)", "did you mean min_p?"),
        ("mirostat2", "did you mean mirostat"),
        ("edt(t0=0.8,tetha=1)", "did you mean theta?"),
        ("edt(1,2,3)", "edt takes no argument number 3"),
        ("edt(t0=1,t0=2)", "twice"),
        ("edt(t0=-1)", "edt's t0 is -1.0; it must be above 0"),
        ("min_p", "needs a number"),
        ("top_h(2)", "top_h is 2.0; it must be above 0 and at most 1"),
        ("top_h(0.5,rule=exact)", "renormalised or partial"),
        ("eta(0)", "above 0 and below 1"),
        ("xtc(0.5,0.9)", "at most 0.5"),
        ("mirostat(tau=0)", "above 0 bits"),
        ("mirostat(feedback=mine)", "model or llama"),
        ("top_k(2.5)", "whole number"),
        ("top_k(inf)", "whole number"),
        ("ead", "one of the two"),
        ("ead(d=1,t_max=0.05)", "at least t_min"),
        ("logit_bias(3)", "a list"),
        ("bad_words([[]])", "one token id or more"),
        ("penalties(repeat=0)", "above 0"),
        ("dry(base=0.5)", "at least 1"),
        ("kl_guided", 'a "text"'),
        ('kl_guided("")', "the prompt holds"),
        ("penalties(prompt=maybe)", "true or false"),
        ("temperature(1) | edt", "both set the temperature"),
        ("min_p(0.1) | min_p(0.2)", "twice"),
        ("mirostat_v2 | top_p(0.9)", "mirostat_v2 sets the truncation itself"),
        ("top_p(0.9) | mirostat", "off its target"),
        ("mirostat | temperature(2)", "put it before"),
        ("mirostat | mirostat_v2", "keep one"),
        ("top_k(5) | top_n_sigma(1)", "put it before top_k"),
        ("temperature(2) | penalties(repeat=2)", "put it before temperature"),
        ("greedy | min_p(0.1)", "stands alone"),
        ("min_p(0.1) | greedy", "stands alone"),
        ("think: greedy", "says nothing about the phase answer"),
        ("think: greedy; think: greedy", "twice"),
        ("thinking: greedy; answer: greedy", "the phases are think and answer"),
        ("greedy; answer: greedy", "name the phase"),
        ("min_p(0.1", "unknown policy"),
        ("min_p 0.1", "unknown policy"),
    ],
)
def test_mistakes_are_one_line(text, words):
    with pytest.raises(ControllerError, match=re.escape(words)) as caught:
        parse_policy(text)
    assert "\n" not in str(caught.value)


def test_the_chain_says_on_which_side_of_the_temperature_it_truncates():
    lines = parse_policy("top_n_sigma(1) | temperature(2) | min_p(0.1)").explain()
    assert lines == [
        "top_n_sigma(1) (truncation, before temperature)",
        "temperature(2) (temperature)",
        "min_p(0.1) (truncation, after temperature)",
    ]
    assert parse_policy("think: min_p(0.1); answer: edt").explain() == [
        "think: min_p(0.1) (truncation)",
        "answer: edt (temperature)",
    ]


class Letters:
    def text(self, token: int) -> str:
        return chr(97 + token)


numbers = st.one_of(st.floats(-60, 60, width=32), st.just(-math.inf), st.sampled_from([0.0, 1.0]))


@st.composite
def logit_rows(draw) -> np.ndarray:
    """Ten tokens that stages name, one of them possible, and others: few, or so many that float32 stays float32."""
    row = draw(st.lists(numbers, min_size=10, max_size=30).filter(lambda row: max(row[:10]) > -math.inf))
    if draw(st.booleans()):
        rng = np.random.default_rng(draw(st.integers(0, 99)))
        others = rng.normal(size=4_200) * draw(st.sampled_from([0.0, 0.01, 2.0, 30.0]))
        others[rng.random(len(others)) < draw(st.sampled_from([0.0, 0.5, 1.0]))] = -np.inf
        row = [*row, *others]
    return np.array(row, dtype=draw(st.sampled_from([np.float32, np.float64])))


def draw_thrice(policy, logits, tokens, uniform, phase):
    """Asserts that no draw is NaN, of an empty set, or of an impossible token."""

    class Told(Keys):
        def uniform(self, position, purpose=0, index=0):
            return uniform

    part = ("think", "answer").index(phase) if isinstance(policy, PerPhase) else None
    chain = policy if part is None else (policy.think, policy.answer)[part]
    bans = {
        token for stage in chain.stages if isinstance(stage, BadWords) for word in stage.words for token in word[-1:]
    }
    ends = frozenset({3}) - bans
    for token in range(10):
        if logits[token] == -np.inf and token in (*bans, *ends, 9):
            logits[token] = 0.0
    free = [t for t in range(10) if logits[t] > -np.inf and t not in bans and t not in ends]
    if not free:
        return
    row = Row(Plain(logits), -1, tokens, phase, Told(seed=0), RunContext(0, ends, Letters()))
    state = policy.start()
    for _ in range(3):
        _, scores = chain.candidates(state if part is None else state[part], row)
        assert np.isfinite(scores.mass) and scores.mass > 0
        assert not np.isnan(scores.weights).any() and len(scores.weights) > 0
        state, token = policy.step(state, row)
        assert logits[token] > -np.inf
        if not isinstance(chain, Greedy):
            assert scores.weights[scores.position(token)] > 0


cases = (
    policies,
    logit_rows(),
    st.lists(ids, min_size=1, max_size=12),
    st.floats(0, 1, exclude_max=True),
    st.sampled_from(["think", "answer"]),
)


@settings(max_examples=120, deadline=None, derandomize=True)
@given(*cases)
def test_no_policy_gives_nan_an_empty_set_or_an_impossible_token(policy, logits, tokens, uniform, phase):
    draw_thrice(policy, logits, tokens, uniform, phase)


@pytest.mark.slow
@settings(max_examples=5_000, deadline=None, derandomize=True)
@given(*cases)
def test_no_policy_of_many_gives_an_impossible_token(policy, logits, tokens, uniform, phase):
    draw_thrice(policy, logits, tokens, uniform, phase)


@pytest.mark.parametrize("text", ["greedy", "temperature(1)", "min_p(0.1)", "edt | top_h(0.4)", "mirostat"])
@pytest.mark.parametrize("bad", [[np.nan, 1.0], [np.inf, 1.0], [-np.inf, -np.inf]])
def test_broken_rows_are_refused(text, bad):
    policy = parse_policy(text)
    row = Row(Plain(np.array(bad)), -1, [0], "think", Keys(seed=0))
    with pytest.raises(ControllerError, match="no token is allowed|distribution is broken"):
        policy.step(policy.start(), row)
