"""Models whose cache holds a state: exits, re-opening, budgets, trials and drafts equal fresh runs over their text."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from reasonctl.backends.attach import attach
from reasonctl.backends.hf.engine import HFEngine
from reasonctl.backends.hf.tokenizer import HFTokenizer
from reasonctl.controller import (
    NO_DRAFT,
    ROOT,
    Call,
    Controller,
    Cues,
    Decode,
    Draft,
    Keys,
    Markers,
    Policy,
    Thinking,
    Trace,
    draw,
)
from reasonctl.controller.core.randomness import SAMPLE
from support.hf_models import EOS, PAD, TOKENIZER
from support.scripted import Scripted
from support.state_models import FAMILIES, ONE_AT_A_TIME, state_model
from support.toy_drafts import Lookup

MODELS, TEXT = {}, HFTokenizer(TOKENIZER)
NEAR = 1e-4
"""Most difference of logits in float32."""
ROUNDED = {"Qwen3Next": 4e-4, "Qwen3_5Moe": 4e-4}
"""Where the library's own steps, without a rollback, differ from its prompts by more: up to 2.7e-4 on these texts."""


def near(family):
    return ROUNDED.get(family, NEAR)


def engine_of(family):
    if family not in MODELS:
        MODELS[family] = HFEngine(state_model(family))
    return MODELS[family]


def fresh_rows(engine, tokens):
    """Logits after each token, shape (tokens, vocabulary), of one forward from an empty cache."""
    forward = engine.model_forward
    with torch.inference_mode():
        more = {"position_ids": torch.arange(len(tokens))[None]} if forward.takes_positions else {}
        return forward.run(torch.tensor([tokens]), forward.new_cache(), len(tokens), (), more).tensor.numpy()


class Checked:
    """A session whose every row is compared with that of a fresh forward."""

    def __init__(self, engine, session, tokens):
        self.engine, self.session, self.tokens = engine, session, tokens
        self.worst = 0.0

    def decode(self, pending, draft=NO_DRAFT):
        (step,) = self.engine.forward([Decode(self.session, pending, draft)])
        self.tokens += pending
        rows = fresh_rows(self.engine, [*self.tokens, *draft.tokens])[-1 - len(draft.tokens) :]
        for node in range(ROOT, len(draft.tokens)):
            self.worst = max(self.worst, float(np.abs(step.logits(node) - rows[node + 1]).max()))
        self.drafted = draft.tokens

    def keep(self, count):
        self.session.keep(range(count))
        self.tokens += self.drafted[:count]

    def rollback(self, n):
        self.session.rollback(n)
        del self.tokens[len(self.tokens) - n :]

    def fork(self):
        return Checked(self.engine, self.session.fork(), list(self.tokens))


def walk(engine, seed, steps=16):
    """A random sequence of everything that a session can do; returns the worst difference, and the rollbacks made."""
    draw = random.Random(seed)

    def tokens(n):
        return [draw.randrange(1, 40) for _ in range(n)]

    one = Checked(engine, engine.session(), [])
    one.decode(tokens(draw.randint(1, 9)))
    branches = [one]
    rollbacks = 0
    for _ in range(steps):
        one = draw.choice(branches)
        back = one.session.length - one.session.least
        what = draw.choice(["decode", "draft", "draft", "fork"])
        if draw.random() < 0.4:
            one.session.checkpoint()
        elif back:
            one.rollback(draw.randint(1, back))
            rollbacks += 1
        if what == "draft" and engine.can.branches:
            size = draw.randint(1, 4)
            one.decode(tokens(draw.randint(1, 3)), Draft.chain(tokens(size)))
            one.keep(draw.randint(0, size))
        elif what == "fork" and len(branches) < 3:
            branches.append(one.fork())
        else:
            one.decode(tokens(draw.randint(1, 3)))
        assert one.session.length == len(one.tokens)
    for one in branches:
        one.decode(tokens(1))
    return max(one.worst for one in branches), rollbacks


COMMON = ["Qwen3_5", "GraniteMoeHybrid", "Lfm2", "FalconH1", "Jamba", "Inkling"]
"""One of each kind: recurrent, with experts, convolutions alone, both in one layer, one token at a time, windows."""


def slow_but(common, families=FAMILIES):
    return [family if family in common else pytest.param(family, marks=pytest.mark.slow) for family in families]


EVERY = slow_but(COMMON)
FEW = slow_but(["Lfm2", "Jamba"])
DRAFTED = slow_but(["Qwen3_5", "Lfm2"], [family for family in FAMILIES if family not in ONE_AT_A_TIME])


@pytest.mark.parametrize("family", EVERY)
def test_whatever_a_session_does_its_rows_are_those_of_a_fresh_forward(family):
    engine = engine_of(family)
    assert engine.can.checkpoints and engine.can.rollback and engine.can.fork
    assert engine.can.branches == (0 if family in ONE_AT_A_TIME else 1)
    worst, rollbacks = walk(engine, seed=3)
    assert worst < near(family) and rollbacks > 2


LIKELY = [TOKENIZER.convert_tokens_to_ids(word) for word in (" Wait", " Hmm", "a", "b")]


class Recorded(Policy):
    """Draws where cue words and begun markers are likely, and remembers every row."""

    def __init__(self):
        self.rows = []
        self.taken_back = 0
        """Tokens that rollbacks have taken back."""

    def start(self):
        return None

    def step(self, state, row):
        self.rows.append((tuple(row.tokens), row.logits.copy()))
        logits = row.logits / 2
        logits[LIKELY] += 2.5
        logits[[EOS, PAD]] = -np.inf
        return None, draw(np.exp(logits - logits.max()), row.keys.uniform(len(row.tokens), SAMPLE))


WORDS_AND = {"suffix": "</think>so", "markers": Markers("<think>", "</think>"), "cues": Cues(["wait", "hmm"])}
THINKING = Thinking(Markers("<think>", "ab"), "ab so")
"""A close that a random model often begins to write: one of its letters."""
CASES = {
    "exit": lambda: {"exit": Scripted(lambda at: at.cue.index == 1, wanted=(0,), **WORDS_AND)},
    "exit after trials": lambda: {
        "exit": Scripted(lambda at: at.cue.index == 1, wanted=(0,), answer_tokens=5, **WORDS_AND)
    },
    "budget": lambda: {"budget": 9, "thinking": THINKING},
    "re-opening": lambda: {"continue_times": 3, "thinking": THINKING},
}
PROMPT_IDS = TOKENIZER("so the cat<think>").input_ids


def recorded(engine, case, seed, drafter=None, most=30):
    """(trace, policy) of a run over a random model."""
    policy, trace = Recorded(), Trace()
    call = Call(PROMPT_IDS, most, frozenset([EOS]), Keys(seed=seed), policy)
    session = engine.session()
    back = session.rollback

    def rollback(n):
        policy.taken_back += n
        back(n)

    session.rollback = rollback
    list(Controller(policy=policy, drafter=drafter, **CASES[case]()).stream(session, TEXT, call, trace))
    return trace, policy


def worst_row(engine, rows):
    """Most difference of a row from that of a fresh forward over the text before it."""
    worst, whole = 0.0, {}
    for tokens, logits in sorted(rows, key=lambda row: -len(row[0])):
        longer = next((text for text in whole if text[: len(tokens)] == tokens), None)
        if longer is None:
            longer = tokens
            whole[tokens] = fresh_rows(engine, list(tokens))
        worst = max(worst, float(np.abs(logits - whole[longer][len(tokens) - 1]).max()))
    return worst


def happened(case, trace):
    """Whether a run did what its case is about."""
    if case == "re-opening":
        return bool(trace.reopened)
    return trace.closed_by == ("budget" if case == "budget" else "exit")


@pytest.mark.parametrize("family", EVERY)
def test_every_row_of_a_run_with_an_exit_is_that_of_a_fresh_run_over_its_text(family):
    check_rows("exit", family)


@pytest.mark.parametrize("family", FEW)
@pytest.mark.parametrize("case", ["exit after trials", "budget", "re-opening"])
def test_every_row_of_another_controlled_run_is_too(case, family):
    check_rows(case, family)


def check_rows(case, family):
    """Runs until one is what the case is about; every row of theirs, and of their trials, is compared."""
    engine, done = engine_of(family), 0
    for seed in range(12):
        trace, policy = recorded(engine, case, seed)
        done += happened(case, trace) and policy.taken_back > 0
        assert worst_row(engine, policy.rows) < near(family)
        if done:
            break
    assert done


@pytest.mark.parametrize("family", FEW)
def test_rows_of_a_batch_run_in_turn_each_with_its_own_checkpoints(family):
    engine = engine_of(family)
    model = engine.model_forward.model
    prompts = TOKENIZER(["so the cat<think>", "a b<think>"], return_tensors="pt", padding=True)
    for seed in range(6):
        rule, policy = CASES["exit after trials"]()["exit"], Recorded()
        with attach(model, Controller(exit=rule, policy=policy), tokenizer=TOKENIZER) as handle:
            torch.manual_seed(seed)
            model.generate(**prompts, max_new_tokens=30)
        assert worst_row(engine, policy.rows) < near(family)
        assert any("rows run in turn" in text for text in handle.traces[1].warnings)
        if any(trace.closed_by == "exit" for trace in handle.traces):
            return
    pytest.fail("no row exited")


@pytest.mark.parametrize("family", ["Lfm2", "FalconH1", "Jamba"])
def test_the_cache_that_a_call_returns_holds_what_the_library_s_does(family):
    """The last draft of a run is rejected, and a rollback may be its last step: nothing stays owed."""
    engine = engine_of(family)
    for seed in range(3):
        session, trace = engine.session(), Trace()
        policy = Recorded()
        call = Call(PROMPT_IDS, 12, frozenset([EOS]), Keys(seed=seed), policy)
        drafter = Lookup(size=4, longest=1)
        list(Controller(policy=policy, drafter=drafter).stream(session, TEXT, call, trace))
        session.settle()
        held = [*PROMPT_IDS, *trace.tokens][: session.length]
        assert session.owed == 0 and session.length == len(PROMPT_IDS) + len(trace.tokens) - 1
        with torch.inference_mode():
            forward = engine.model_forward
            more = {"position_ids": torch.tensor([[len(held)]])} if forward.takes_positions else {}
            row = forward.run(torch.tensor([[7]]), session.cache, 1, (), more).tensor[0].numpy()
        assert np.abs(row - fresh_rows(engine, [*held, 7])[-1]).max() < near(family)


@pytest.mark.parametrize("family", DRAFTED)
@pytest.mark.parametrize("case", ["exit", "re-opening"])
def test_drafts_change_no_token(case, family):
    engine, drafted, accepted = engine_of(family), 0, 0
    for seed in range(2):
        plain, _ = recorded(engine, case, seed)
        trace, policy = recorded(engine, case, seed, drafter=Lookup(size=4, longest=1))
        assert trace.tokens == plain.tokens and worst_row(engine, policy.rows) < near(family)
        drafted, accepted = drafted + trace.drafted, accepted + trace.accepted
    assert drafted > accepted
