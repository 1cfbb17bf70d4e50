"""Drafting by a smaller model with the same vocabulary: chains, Sequoia's static trees, DySpec's dynamic ones.

The draft follows the run's own policy on the draft model's logits: truncation and temperature match the target's.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from .cost import CostCurve
from .decode import NO_DRAFT, ROOT, Decode, Draft, Engine, Floats, Step
from .drafters import Drafter, Target
from .errors import ControllerError
from .laws import HeardRow, law_of, softmax
from .levels import Draws, middle_chain
from .planned import PRIOR, Kind, Planned
from .planned_run import PlannedRun
from .speed import counted
from .thinking import Tokenizer
from .trees import Growth, Shape, draw_greedy, draw_shape, draw_threshold, sequoia
from .vocabulary import vocabulary_of

DRAFT_TEMPERATURE = 0.6
"""Of the values of a greedy target's drafts: a one-hot law would say nothing about what comes second."""


class DraftModel(Protocol):
    """What is needed of a loaded model."""

    @property
    def name(self) -> str: ...

    @property
    def engine(self) -> Engine: ...

    @property
    def tokenizer(self) -> Tokenizer: ...

    @property
    def context(self) -> int: ...


class ModelDrafter(Planned):
    """Drafts of a smaller model. kind: the tree; size, depth: most drafted tokens a step, most of them on a path.

    Size, depth and branching are planned from recent acceptance by rank and from both models' measured forward times;
    where no plan beats plain decoding nothing is drafted, and it is tried again now and then. `adaptive` False: one
    shape of `size` tokens, so that a run depends on its keys only. With a greedy target a draft is a function of the
    past; else it is drawn, by the run's own keys. below: a drafter that drafts for chains of the draft model (two
    levels, as in TriForce); what the middle level hands up follows its own law exactly.
    """

    def __init__(
        self, model: DraftModel, *, kind: Kind = "sequoia", size: int = 16, depth: int = 8, adaptive: bool = True,
        curves: tuple[CostCurve, CostCurve] | None = None, below: Drafter | None = None,
    ) -> None:  # fmt: skip
        super().__init__(kind=kind, size=size, depth=depth, adaptive=adaptive, curves=curves, below=below)
        self.model = model

    def start(self, target: Target) -> ModelRun:
        """One run; raises ControllerError if the vocabularies differ or the draft model can't take tokens back."""
        if vocabulary_of(self.model.tokenizer) != vocabulary_of(target.tokenizer):
            raise ControllerError(
                f"{self.model.name!r} has other token ids than the target; draft with a model of the same family"
            )
        return ModelRun(self, target, self.model.engine, self.model.name, self.model.context)


class ModelRun(PlannedRun):
    """One run: what is drawn from the draft model."""

    def propose(self, tokens: Sequence[int], room: int) -> Generator[Decode, Step, Draft]:
        """A tree drawn from the draft model, as large as it pays."""
        self.begun, self.seen = self.begun or len(tokens), len(tokens)
        self.proposed = self.slots = None
        if self.target.behind(tokens):
            return NO_DRAFT  # the prompt or a suffix is being fed
        at, draft = self.target.session.length, NO_DRAFT
        if self.d.adaptive:
            yield from self.replan(tokens, room)
        nodes = self.fits(tokens) if self.drafts() else 0
        if nodes:
            self.spent, missing = 0.0, self.missing(tokens)
            (draft, expected), work = yield from counted(self._drawn(tokens, nodes, min(room, self.d.depth)))
            if draft.tokens:
                self.d.note_work(work, len(draft))
                self.spent = None if self.spent is None else self.spent + work
                seconds = self.plan.seconds(draft.parents, *self.used, at, missing) if self.used else None
                self.proposed = draft, expected, seconds
        if self.watch is not None:
            self.watch.begin(at)
        return draft

    def _drawn(self, tokens: Sequence[int], nodes: int, depth: int) -> Generator[Decode, Step, tuple[Draft, float]]:
        """(a draft of so many nodes at most, the tokens that a step with it is expected to emit)."""
        draws = Draws(self.target.keys, len(tokens)) if self.samples(tokens) else None
        size = min(len(self.plan.shape.parents) if self.d.adaptive else self.d.size, nodes)
        if self.d.below is not None:
            draft = yield from self.chain(self.d.below, tokens, min(size, depth), draws)
        elif draws is None and self.d.kind == "chain":
            draft = yield from self._largest(tokens, min(size, depth))
        else:
            growth = Growth(None if draws is None else draws.choose)
            yield from self._grow(growth, tokens, size, nodes, depth)
            draft = growth.draft()
            if self.d.kind in ("dyspec", "dyspec-greedy"):
                self.slots = growth.values
                return draft, self.d.expected_of(draft, growth.values)
        return draft, self.d.expected(draft)

    def _largest(self, tokens: Sequence[int], size: int) -> Generator[Decode, Step, Draft]:
        """A chain of most probable tokens: no law is needed for it."""
        path: list[int] = []
        for _ in range(size):
            step = yield from self.decode([*tokens, *path])
            path.append(int(step.logits(ROOT).argmax()))
        return Draft.chain(path)

    def _grow(
        self, growth: Growth, tokens: Sequence[int], size: int, nodes: int, depth: int
    ) -> Generator[Decode, Step, None]:
        laws, leaves, planned = _Laws(self, tokens), self.leaves, self.plan.shape
        if self.d.kind not in ("dyspec", "dyspec-greedy"):
            shape = planned.first(size) if self.d.adaptive else self._fixed(size, leaves)
            yield from draw_shape(growth, laws, shape.above(depth))
            return
        threshold = 1.0 / (1 + size)
        if self.d.adaptive:
            # Where the draft model is sure a tree may be larger than planned, elsewhere it is smaller.
            depth, threshold = min(depth, planned.depth()), planned.least_slot(self.d.acceptance())
            size = min(2 * size, self.d.size, nodes)
        if self.d.kind == "dyspec":
            yield from draw_threshold(growth, laws, threshold=threshold, nodes=size, layers=depth, leaves=leaves)
        else:
            yield from draw_greedy(growth, laws, nodes=size, layers=depth, leaves=leaves)

    def chain(
        self, below: Drafter, tokens: Sequence[int], size: int, draws: Draws | None
    ) -> Generator[Decode, Step, Draft]:
        """A chain of the draft model whose forwards verify the drafts of a level below."""
        if self.below is None:
            target = self.target
            self.below = below.start(replace(target, session=self.session, keys=self.keys_below, clock=self.clock))
        self.keys_below.root = len(tokens)
        return (yield from middle_chain(self, self.below, tokens, size, draws))

    def _fixed(self, size: int, leaves: int) -> Shape:
        acceptance = tuple(PRIOR.values()) if self.d.kind == "sequoia" and leaves > 1 else (1.0,)
        return sequoia(acceptance, size + 1, self.d.depth + 1, leaves)

    def law(self, step: Step, node: int, tokens: Sequence[int]) -> Floats:
        """The law of the token behind `tokens`, which end at `node`: the run's policy on the draft model's logits."""
        target = self.target
        row = HeardRow(step, node, tokens, target.phase(), target.keys, target.frame)
        law = law_of(self.policy, row)
        return softmax(row.logits, DRAFT_TEMPERATURE) if law is None else law

    def close(self) -> None:
        """Give the draft session's memory back."""
        if self.seen:
            self.d.note_length(self.seen - self.begun)
        if self.below is not None:
            self.below.close()
        if "session" in vars(self):
            self.session.close()


@dataclass
class _Laws:
    """The draft model's laws behind nodes of a growing tree."""

    run: ModelRun
    tokens: Sequence[int]

    def __call__(self, draft: Draft, nodes: Sequence[int]) -> Generator[Decode, Step, list[Floats]]:
        run = self.run
        if draft.is_chain():
            # A chain is fed as it grows, one row at a time; the next proposal takes back what was rejected.
            tokens = [*self.tokens, *draft.tokens]
            step = yield from run.decode(tokens)
            return [run.law(step, ROOT, tokens)]
        step = yield from run.decode(self.tokens, Draft(draft.tokens, draft.parents))
        laws = [run.law(step, node, [*self.tokens, *_path(draft, node)]) for node in nodes]
        run.session.keep(())
        return laws


def _path(draft: Draft, node: int) -> list[int]:
    path: list[int] = []
    while node != ROOT:
        path.append(draft.tokens[node])
        node = draft.parents[node]
    return path[::-1]
