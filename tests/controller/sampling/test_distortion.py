"""Local normalization distortion: golden numbers, identities on known laws, and runs that carry ln Z."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from reasonctl.backends.toy import ToyEngine, ToyTokenizer
from reasonctl.controller import (
    ROOT,
    Call,
    Chain,
    Controller,
    ControllerError,
    Draft,
    Keys,
    PerPhase,
    Stateless,
    Temperature,
    TopK,
    TopP,
    Trace,
    Weighed,
    distortion,
    importance_weights,
    log_z,
    parse_policy,
)
from reasonctl.controller.sampling.policy import WrapperState

FIRST = np.array([0.5, 0.3, 0.2])
SECOND = np.array([[0.9, 0.08, 0.02], [0.4, 0.35, 0.25], [1 / 3, 1 / 3, 1 / 3]])


def texts(chain: Chain) -> dict[tuple[int, int], tuple[float, float]]:
    """(q, ln W) of every text of two tokens."""
    found = {}
    for a, b in itertools.product(range(3), repeat=2):
        q, log_w = 1.0, 0.0
        for law, token in ((FIRST, a), (SECOND[a], b)):
            q, log_w = q * chain.probs(np.log(law))[token], log_w + log_z(chain, np.log(law))
        if q > 0:
            found[a, b] = q, log_w
    return found


def test_golden_truncation():
    """samplers.md, section 12: top-k 2, two steps."""
    found = texts(Chain(TopK(2)))
    q, logs = np.array(list(found.values())).T
    assert q.round(4).tolist() == [0.5740, 0.0510, 0.2000, 0.1750]
    assert (-logs).round(4).tolist() == [0.2433, 0.2433, 0.5108, 0.5108]
    pi = q * np.exp(logs) / (q @ np.exp(logs))
    assert pi.round(4).tolist() == [0.6294, 0.0559, 0.1678, 0.1469]
    told = distortion(logs.tolist(), q.tolist())
    assert q @ np.exp(logs) == pytest.approx(0.7150)
    assert told.kl == pytest.approx(0.0082, abs=5e-5) and told.ess == pytest.approx(0.9847, abs=5e-5)
    assert told.kl == pytest.approx(float(q @ np.log(q / pi)))


def test_golden_temperature():
    found = texts(Chain(Temperature(0.5)))
    q, logs = np.array(list(found.values())).T
    p = np.array([FIRST[a] * SECOND[a, b] for a, b in found])
    pi = q * np.exp(logs) / (q @ np.exp(logs))
    assert q[0] == pytest.approx(0.6524, abs=5e-5) and pi[0] == pytest.approx(0.8146, abs=5e-5)
    assert pi == pytest.approx(p**2 / (p**2).sum())
    assert distortion(logs.tolist(), q.tolist()).kl == pytest.approx(0.0764, abs=5e-5)


CHAINS = [
    "top_p(0.8) | temperature(2)",
    "temperature(2) | top_p(0.8)",
    "min_p(0.3) | edt(t0=1.3,theta=0.2)",
    "temperature(0.7) | typical(0.6)",
    "top_n_sigma(1) | dynatemp(t=0.9,range=0.4) | top_k(2)",
    "mirostat_v2(tau=0.7)",
    "temperature(0.00005)",
    "logit_bias([[1,0.7]]) | temperature(1.5) | min_p(0.2)",
]


@pytest.mark.parametrize("text", CHAINS)
@pytest.mark.parametrize("law", [FIRST, SECOND[1], np.array([0.05, 0.6, 0.35])])
def test_z_is_what_is_missing_between_the_laws(text, law):
    """ln q = a ln p - ln Z with one a and one Z for all tokens that are kept; a is 1 without a temperature."""
    chain = parse_policy(text)
    logits = np.log(law)
    q = chain.probs(logits)
    p = law * (np.exp([0, 0.7, 0]) if "bias" in text else 1.0)
    p = p / p.sum()
    kept = np.flatnonzero(q)
    q = q[kept]
    z = log_z(chain, logits)
    if len(kept) > 1:
        a = float(np.ptp(np.log(q)) / np.ptp(np.log(p[kept])))
        assert np.log(q) == pytest.approx(a * np.log(p[kept]) - z, abs=1e-9)
    elif "temperature" not in text and "edt" not in text and "dynatemp" not in text:
        assert z == pytest.approx(math.log(p[kept[0]]))


TOY, TEXTS = ToyEngine(vocabulary=5, order=2, seed=4, concentration=0.8), ToyTokenizer(list("abcde"))


class Bushy(Stateless):
    def propose(self, tokens, room):
        return Draft((*range(5), *range(5)), (*[ROOT] * 5, *[2] * 5)) if room > 2 else Draft()
        yield


def ran(policy, run: int, drafter=None) -> Trace:
    trace = Trace()
    call = Call([0, 1], 8, frozenset({4}), Keys(seed=3, run=run), policy)
    for _ in Controller(drafter=drafter).stream(TOY.session(), TEXTS, call, trace):
        pass
    return trace


@pytest.mark.parametrize("text", ["top_k(2)", "min_p(0.2) | temperature(1.3)"])
def test_a_run_carries_its_weight_and_drafts_don_t_change_it(text):
    chain, accepted = parse_policy(text), 0
    for run in range(20):
        trace, plain, drafted = ran(Weighed(chain), run), ran(chain, run), ran(Weighed(chain), run, Bushy())
        assert trace.tokens == plain.tokens == drafted.tokens and plain.log_z is None
        at = [[0, 1, *trace.tokens[:i]] for i in range(len(trace.tokens))]
        assert trace.log_z == pytest.approx(sum(log_z(chain, np.log(TOY.probs(tokens))) for tokens in at))
        assert drafted.log_z == pytest.approx(trace.log_z)
        accepted += drafted.accepted
    assert accepted > 20


def test_the_weights_undo_the_distortion():
    """Runs of top-k reweighted have the law of the globally normalised one; unweighted they don't (planted)."""
    chain, n = Chain(TopK(2)), 4_000
    exact: dict[tuple[int, ...], float] = {}

    def deeper(tokens: list[int], p: float) -> None:
        if len(tokens) == 4 + 2:
            exact[tuple(tokens[2:])] = p
            return
        law = TOY.probs(tokens)
        for token in np.argsort(-law)[:2]:
            deeper([*tokens, int(token)], p * law[token])

    deeper([0, 1], 1.0)
    total = sum(exact.values())
    logs, firsts = [], []
    for run in range(n):
        trace = Trace()
        call = Call([0, 1], 4, frozenset(), Keys(seed=9, run=run), Weighed(chain))
        tokens = [event.token for event in Controller().stream(TOY.session(), TEXTS, call, trace)]
        logs.append(trace.log_z)
        firsts.append(tokens[0])
    tops = np.argsort(-TOY.probs([0, 1]))[:2]
    truth = sum(p for text, p in exact.items() if text[0] == tops[0]) / total
    hit, w = np.array(firsts) == tops[0], importance_weights(logs)
    weighted, plain = float(w @ hit), float(hit.mean())
    error = math.sqrt(float((w**2) @ (hit - weighted) ** 2))
    assert abs(weighted - truth) < 3 * error < abs(plain - truth)


def test_without_truncation_nothing_is_distorted():
    told = distortion([ran(Weighed(Chain(TopP(1.0))), run).log_z for run in range(5)])
    assert told.mean == 0.0 and told.kl == 0.0 and told.ess == 1.0
    assert importance_weights([3.0, 3.0]).tolist() == [0.5, 0.5]
    assert importance_weights([-5000.0, -5001.0])[0] == pytest.approx(1 / (1 + math.exp(-1)))


def test_phases_are_summed():
    phases = PerPhase(Weighed(Chain(TopK(2))), Weighed(Chain(TopK(3))))
    trace = Trace()
    phases.finish((WrapperState(None, -1.5), WrapperState(None, -0.25)), trace)
    assert trace.log_z == -1.75


@pytest.mark.parametrize("text", ["greedy", "think: top_k(2) ; answer: greedy", 'kl_guided(source="a")'])
def test_what_has_no_weight_is_refused_in_one_line(text):
    with pytest.raises(ControllerError, match="can't be weighed") as error:
        Weighed(parse_policy(text))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("logs", [[], [0.0, math.nan], [-math.inf]])
def test_weights_of_nothing(logs):
    for asked in (importance_weights, distortion):
        with pytest.raises(ControllerError, match="at least one run"):
            asked(logs)
