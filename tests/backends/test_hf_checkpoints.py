"""Models whose cache holds a state: exits, re-opening, budgets, trials and drafts equal fresh runs over the same text."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from reasonctl.backends.hf.engine import HFEngine
from reasonctl.controller import NO_DRAFT, ROOT, Decode, Draft
from support.state_models import FAMILIES, ONE_AT_A_TIME, state_model

MODELS = {}
NEAR = 1e-4
"""Most difference of logits in float32."""


def engine_of(family):
    if family not in MODELS:
        MODELS[family] = HFEngine(state_model(family))
    return MODELS[family]


def fresh_rows(engine, tokens):
    """Logits after each token, shape (tokens, vocabulary), of one forward from an empty cache."""
    forward = engine.model_forward
    with torch.inference_mode():
        more = {"position_ids": torch.arange(len(tokens))[None]} if forward.takes_positions else {}
        return forward.run(torch.tensor([tokens]), forward.new_cache(), len(tokens), (), more).logits.numpy()


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
EVERY = [family if family in COMMON else pytest.param(family, marks=pytest.mark.slow) for family in FAMILIES]


@pytest.mark.parametrize("family", EVERY)
def test_whatever_a_session_does_its_rows_are_those_of_a_fresh_forward(family):
    engine = engine_of(family)
    assert engine.can.checkpoints and engine.can.rollback and engine.can.fork
    assert engine.can.branches == (0 if family in ONE_AT_A_TIME else 1)
    worst, rollbacks = walk(engine, seed=3)
    assert worst < NEAR and rollbacks > 2
