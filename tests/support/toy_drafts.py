"""Small draft models over the toy backend, and what is known of them."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np

from reasonctl.backends.toy import ToyEngine, ToyTokenizer
from reasonctl.controller import Call, Controller, Keys, ModelDrafter, PromptLookup, Sampling, Stateless, Trace
from reasonctl.controller.drafting.planning.cost import CostCurve

ALPHA = 1e-4
"""False alarms of each randomised test; seeds are fixed."""


class Fixed(CostCurve):
    """A curve that no measured time corrects: the toy's own forwards take no time."""

    def note(self, rows, seconds, context=0):
        pass


FLAT, DEAR = Fixed({0: {1: 1.0, 32: 1.0}}), Fixed({0: {1: 1.0, 32: 32.0}})
CHEAP = Fixed({0: {1: 0.05, 32: 0.05}})


class Lookup(Stateless):
    """Prompt lookup without a plan, on any cache."""

    def __init__(self, size: int, longest: int) -> None:
        self.lookup = PromptLookup(size=size, longest=longest)

    def propose(self, tokens, room):
        return (yield from self.lookup.propose(tokens, room))


class Words(ToyTokenizer):
    """A tokenizer that lists its pieces, as draft models need it."""

    def pieces(self):
        return enumerate(text.encode() for text in self.texts)


TOKENS = Words(list("abcde"))
rng = np.random.default_rng(20240517)
TARGET, SMALL = ToyEngine(vocabulary=5), ToyEngine(vocabulary=5)
TARGET.table, SMALL.table = (rng.dirichlet(np.ones(5) * 0.7, size=5) for _ in range(2))
TARGET.table[0], SMALL.table[0] = [0.40, 0.30, 0.15, 0.10, 0.05], [0.10, 0.50, 0.25, 0.05, 0.10]


def small(engine=SMALL, tokenizer=TOKENS, **lacks):
    """A draft model over a toy engine."""
    can = replace(ToyEngine.session(engine).can, **lacks)
    return SimpleNamespace(name="small", engine=engine, tokenizer=tokenizer, context=1 << 20, can=can)


def drafter(kind, *, engine=SMALL, curves=(FLAT, CHEAP), **more):
    """A ModelDrafter on the small model, with known costs."""
    return ModelDrafter(small(engine), kind=kind, curves=curves, **more)


def run(drafter, *, engine=TARGET, policy=None, run=0, most=60, seed=9):
    """The trace of one drafted run."""
    trace = Trace()
    call = Call([0], most, frozenset(), Keys(seed=seed, run=run), policy or Sampling())
    events = list(Controller(drafter=drafter).stream(engine.session(), TOKENS, call, trace))
    assert [e.token for e in events] == trace.tokens
    return trace


def three_tokens(made, policy, n):
    """Counts of the first three tokens after the prompt, and how many drafted tokens were accepted.

    The runs are longer, so that drafts of these tokens are not truncated.
    """
    counts, accepted = np.zeros((5, 5, 5)), 0
    for i in range(n):
        trace = run(made, policy=policy, run=i, most=5)
        counts[tuple(trace.tokens[:3])] += 1
        accepted += trace.accepted
    return counts, accepted


NEAR = ToyEngine(vocabulary=5)
NEAR.table = 0.7 * TARGET.table + 0.3 * np.random.default_rng(6).dirichlet(np.ones(5), size=5)
