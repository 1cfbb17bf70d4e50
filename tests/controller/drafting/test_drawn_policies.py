"""Policies under drafts that a smaller model draws: the law by exact enumeration, and what the draft model is asked."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from reasonctl.backends.toy import ToyEngine
from reasonctl.controller import (
    ROOT,
    Call,
    Chain,
    Controller,
    Draft,
    Keys,
    Markers,
    ModelDrafter,
    PerPhase,
    PromptLookup,
    Row,
    RunContext,
    Target,
    Temperature,
    Thinking,
    TopK,
    Trace,
    Weighed,
    parse_policy,
)
from reasonctl.controller.drafting.models import model_run
from support.exact_probs import emitted, outcomes
from support.heads_files import heads_file
from support.statistics import merged_p_value
from support.toy_drafts import ALPHA, NEAR, TARGET, TOKENS, small
from support.toy_triforce import LONG, PREFIX, triforce

KEYS = Keys(seed=5)
FRAME = RunContext(len(PREFIX), frozenset({4}), TOKENS, LONG)
CLOSE = 3
THINKING = Thinking(Markers("aca", "d"), "d")

LAWS = [
    "ead(d=2,warmup=1)",
    "edt(t0=1.2,theta=0.5) | top_h(0.7)",
    "xtc(probability=0.6,threshold=0.15)",
    "think: min_p(0.2) | temperature(1.5) ; answer: ead(d=3,warmup=0)",
    "think: temperature(1.3) ; answer: greedy",
    "min_new_tokens(2) | temperature(0.8)",
    "penalties(frequency=0.9,prompt=false) | typical(0.8)",
    "dry(multiplier=2,base=1.5,allowed_length=1,breakers=[]) | temperature(0.9)",
    "mirostat_v2(tau=1.8,eta=0.8)",
]


class Rows:
    """A step that holds the toy's law behind given tokens."""

    def __init__(self, tokens):
        self.tokens = tokens

    def logits(self, node):
        return np.log(TARGET.probs(self.tokens))


def folded(policy, path):
    """What the policy draws from after PREFIX + path, without any loop."""
    chain, state, phase = policy, None, "think"
    if isinstance(policy, PerPhase):
        phase = "answer" if CLOSE in path else "think"
        chain = policy.answer if phase == "answer" else policy.think
    state = chain.start()
    for end in range(len(path) + 1):
        tokens = [*PREFIX, *path[:end]]
        row = Row(Rows(tokens), ROOT, tokens, phase, KEYS, FRAME)
        held, candidates = chain.candidates(state, row)
        if end < len(path):
            state = chain.accept(held, candidates, path[end])
    return chain.distribution(state, row)


def law_behind(policy, path):
    """Shape (5,)."""
    return folded(policy, path).dense(5)


def proposed(policy, kind, choose, monkeypatch) -> Draft:
    """What the draft model proposes behind PREFIX when its draws fall as `choose` says."""

    class Told:
        def __init__(self, keys, at):
            self.choose = choose

    monkeypatch.setattr(model_run, "Draws", Told)
    session = LONG.session()
    session.tokens += PREFIX[:-1]
    target = Target(session, TOKENS, KEYS, policy, context=FRAME, phase=lambda: "think")
    drafting = ModelDrafter(small(NEAR), kind=kind, size=3, depth=2, adaptive=False).start(target)
    asking, step = drafting.propose(PREFIX, 3), None
    while True:
        try:
            request = asking.send(step)
        except StopIteration as stop:
            return stop.value
        (step,) = NEAR.forward((request,))


@pytest.mark.parametrize("kind", ["chain", "sequoia", "dyspec"])
@pytest.mark.parametrize("text", LAWS)
def test_drawn_drafts_keep_the_law_exactly(text, kind, monkeypatch):
    """Every draft that the model can draw, every test on it, every token of two: probabilities add up to the plain law.

    The draft's law may differ from the target's as it likes; XTC's coin is the position's, one for both.
    """
    policy, known = parse_policy(text), {}

    def law(path):
        if path not in known:
            known[path] = law_behind(policy, list(path))
        return known[path]

    out, total, drawn = np.zeros((5, 5)), 0.0, 0
    for weight, draft in outcomes(lambda choose: proposed(policy, kind, choose, monkeypatch)):
        out += weight * emitted(draft, law, 2)
        total, drawn = total + weight, drawn + bool(draft.proposals)
    plain = np.array([[law(())[a] * law((a,))[b] for b in range(5)] for a in range(5)])
    assert total == pytest.approx(1.0, abs=1e-12) and drawn > 1
    assert np.abs(out - plain).max() < 1e-12


SAME = ToyEngine(vocabulary=5)
SAME.table = TARGET.table


def run(policy, drafter, number=0, most=24):
    trace = Trace()
    call = Call(PREFIX, most, frozenset({4}), Keys(seed=3, run=number), policy)
    list(Controller(drafter=drafter, thinking=THINKING).stream(LONG.session(), TOKENS, call, trace))
    return trace


@pytest.mark.parametrize("text", [text for text in LAWS if "mirostat" not in text and "think" not in text])
def test_a_draft_model_that_is_the_target_is_never_rejected(text):
    """It is asked for the policy's law at the run's own place: position, prompt, end tokens, text and phase."""
    policy, drafted = parse_policy(text), 0
    for number in range(20):
        trace = run(policy, ModelDrafter(small(SAME), kind="chain", size=3, adaptive=False), number)
        assert trace.accepted == trace.drafted or trace.finish_reason == "stop"
        drafted += trace.drafted
    assert drafted > 50


def test_the_draft_model_is_asked_in_the_phase_of_the_run():
    """While thinking a policy for each phase drafts what thinking draws; the answer's law would be rejected."""
    policy = parse_policy("think: bad_words([[3]]) | temperature(1.4) ; answer: top_k(1)")
    drafted = accepted = 0
    for number in range(20):
        trace = run(policy, ModelDrafter(small(SAME), kind="chain", size=3, adaptive=False), number)
        drafted, accepted = drafted + trace.drafted, accepted + trace.accepted
        assert trace.accepted == trace.drafted or trace.finish_reason == "stop"
    assert accepted > 50


ASKING = {
    "dry": lambda path: parse_policy(LAWS[7]),
    "kl_guided": lambda path: parse_policy('kl_guided(source="cde",t0=1.3,sigma=0.5) | min_p(0.02)'),
    "autodeco": lambda path: parse_policy(f'autodeco("{heads_file(path)}")'),
    "ead": lambda path: parse_policy(LAWS[0]),
    "phases": lambda path: parse_policy('think: kl_guided("cde") ; answer: dry(allowed_length=1,breakers=[])'),
    "weighed": lambda path: Weighed(Chain(Temperature(1.3), TopK(3))),
    "weighed autodeco": lambda path: Weighed(parse_policy(f'autodeco("{heads_file(path)}")')),
}
DRAWN = {
    kind: lambda kind=kind: ModelDrafter(small(NEAR), kind=kind, size=5, depth=3, adaptive=False)
    for kind in ("chain", "sequoia", "dyspec", "dyspec-greedy")
} | {
    "cascade": lambda: ModelDrafter(small(NEAR), kind="chain", size=5, adaptive=False, inner=PromptLookup(size=3)),
    "triforce": lambda: triforce(PromptLookup(size=3)),
}


@pytest.mark.parametrize(("name", "drafter"), list(itertools.product(ASKING, DRAWN)))
def test_every_policy_runs_under_every_drafter_that_asks_for_its_law(name, drafter, tmp_path):
    policy, made, accepted = ASKING[name](tmp_path / "h.safetensors"), DRAWN[drafter](), 0
    for number in range(6):
        trace = run(policy, made, number)
        assert len(trace.tokens) == 24 or trace.finish_reason == "stop"
        assert (trace.log_z is not None) == name.startswith("weighed")
        accepted += trace.accepted
    assert accepted > 5


QUICK = ["sequoia", LAWS[3]]
OTHERS = [
    [kind, text]
    for kind in ("chain", "sequoia", "dyspec", "triforce")
    for text in LAWS
    if "xtc" not in text and "min_new" not in text and [kind, text] != QUICK  # no coin, and no end
]


@pytest.mark.parametrize(
    ("kind", "text", "n"), [(*QUICK, 400), *(pytest.param(*one, 3_000, marks=pytest.mark.slow) for one in OTHERS)]
)
def test_the_loop_keeps_the_law_under_drawn_drafts(kind, text, n):
    """The first two tokens of whole runs against the exact law; false alarms: 1e-4 each."""
    policy, made, counts, accepted = parse_policy(text), DRAWN[kind](), np.zeros((5, 5)), 0
    for number in range(n):
        trace = Trace()
        call = Call(PREFIX, 5, frozenset(), Keys(seed=8, run=number), policy)
        list(Controller(drafter=made, thinking=THINKING).stream(LONG.session(), TOKENS, call, trace))
        counts[tuple(trace.tokens[:2])] += 1
        accepted += trace.accepted
    first = law_behind(policy, [])
    plain = np.array([first[a] * law_behind(policy, [a]) if first[a] else np.zeros(5) for a in range(5)])
    assert accepted > n / 4
    assert merged_p_value(counts, plain) > ALPHA
