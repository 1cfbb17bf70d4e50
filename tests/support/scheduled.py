"""Runs of every kind on the toy reasoner, to be scheduled together and compared with each alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

from reasonctl.backends.toy import ToyEngine
from reasonctl.controller import Call, Controller, Drafter, Greedy, Keys, ModelDrafter, PromptLookup, Sampling, Trace
from reasonctl.controller.drafting.planning.cost import CostCurve
from support.scripted import RandomTree, Scripted
from support.toy_thinking import ENGINE, EOS, PROMPT, TEXTS, THINKING, TOKENIZER

FREE = CostCurve({0: {1: 1.0, 64: 1.0}})
"""Drafting always pays."""


def reasoner(**limits: int) -> ToyEngine:
    """The toy reasoner with a batch, a room or a number of sessions of its own."""
    engine = ToyEngine(vocabulary=len(TEXTS), order=2, **limits)
    engine.table = ENGINE.table
    return engine


@dataclass(frozen=True)
class DraftModel:
    """A draft model over an engine of the test's."""

    engine: ToyEngine
    name: str = "toy"
    tokenizer: object = field(default=TOKENIZER)
    context: int = 1000

    @property
    def can(self):
        return ToyEngine.session(self.engine).can


class Breaking(Greedy):
    """A policy that fails at a token."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def step(self, state, row):
        if len(row.tokens) >= self.at:
            raise ZeroDivisionError(f"broken at {self.at}")
        return super().step(state, row)


KINDS: dict[str, Callable[[ToyEngine], Controller]] = {
    "plain": lambda drafts: Controller(),
    "exit": lambda drafts: Controller(exit=Scripted(lambda at: at.cue.index == 1)),
    "trial": lambda drafts: Controller(exit=Scripted(lambda at: at.cue.index == 2, answer_tokens=4)),
    "budget": lambda drafts: Controller(thinking=THINKING, budget=9, min_thinking=3, continue_times=1),
    "chain": lambda drafts: Controller(drafter=PromptLookup(size=4)),
    "tree": lambda drafts: Controller(drafter=RandomTree(len(TEXTS))),
    "drafted exit": lambda drafts: Controller(
        exit=Scripted(lambda at: at.cue.index == 1, answer_tokens=3), drafter=RandomTree(len(TEXTS))
    ),
    "model": lambda drafts: Controller(drafter=model_drafter(drafts)),
    "breaks": lambda drafts: Controller(policy=Breaking(14)),
}
"""Controllers by what they do; each is given the draft model's engine."""


def model_drafter(drafts: ToyEngine) -> Drafter:
    """Chains of a draft model, of one shape always, so that a run depends on its keys only."""
    return ModelDrafter(DraftModel(drafts), kind="chain", size=3, adaptive=False, curves=(FREE, FREE))


def call(number: int, most: int) -> Call:
    """Call number `number`."""
    return Call(list(PROMPT), most, frozenset([EOS]), Keys(seed=5, run=number), Sampling())


@cache
def alone(kind: str, number: int, most: int) -> tuple[int, ...]:
    """The tokens of a run by itself."""
    engine, trace = reasoner(), Trace()
    controller = KINDS[kind](reasoner())
    session = engine.session()
    try:
        for _ in controller.stream(session, TOKENIZER, call(number, most), trace):
            pass
    except ZeroDivisionError:
        assert kind == "breaks"
    return tuple(trace.tokens)
