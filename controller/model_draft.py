"""Drafting by a smaller model with the same vocabulary: chains, Sequoia's static trees, DySpec's dynamic ones.

The draft follows the run's own policy on the draft model's logits: truncation and temperature match the target's.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

from .cost import CostCurve, known_curve
from .decode import NO_DRAFT, ROOT, Decode, Draft, Engine, Floats, Session, Step
from .drafters import Drafter, Drafting, Target
from .errors import ControllerError
from .laws import Flat, HeardRow, for_drafts, law_of, softmax
from .levels import Draws, middle_chain
from .ngrams import vocabulary_hash
from .planned import PRIOR, RANKS, Kind, Plan, Planned
from .policy import Phase
from .randomness import KeysBelow
from .thinking import Tokenizer
from .trees import Growth, Shape, draw_greedy, draw_shape, draw_threshold, sequoia

DRAFT_TEMPERATURE = 0.6
"""Of the values of a greedy target's drafts: a one-hot law would say nothing about what comes second."""


class SessionEngine(Engine, Protocol):
    """An engine that opens sessions."""

    def session(self) -> Session: ...


class DraftModel(Protocol):
    """What is needed of a loaded model."""

    @property
    def name(self) -> str: ...

    @property
    def engine(self) -> SessionEngine: ...

    @property
    def tokenizer(self) -> Tokenizer: ...


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
        self._checked: object = None

    def start(self, target: Target) -> ModelRun:
        """One run; raises ControllerError if the vocabularies differ or the draft model can't take tokens back."""
        if self._checked is not target.tokenizer:
            if vocabulary_hash(self.model.tokenizer) != vocabulary_hash(target.tokenizer):
                raise ControllerError(
                    f"{self.model.name!r} has other token ids than the target; draft with a model of the same family"
                )
            self._checked = target.tokenizer
        return ModelRun(self, target, self.model.engine, self.model.name)


class ModelRun:
    """One run's draft session and plan."""

    def __init__(self, drafter: Planned, target: Target, engine: SessionEngine, name: str) -> None:
        self.d, self.target, self.engine, self.name = drafter, target, engine, name
        self.policy = for_drafts(target.policy)
        self.fed: list[int] = []
        self.plan = Plan(drafter)
        self.samples: dict[Phase, bool] = {}
        self.keys_below = KeysBelow(target.keys)
        self.below: Drafting | None = None

    @cached_property
    def session(self) -> Session:
        """Opened when first needed: a run that never begins holds nothing."""
        session = self.open()
        if not session.can.rollback or not session.can.branches:
            session.close()
            raise ControllerError(f"{self.name!r} can't take rejected tokens back, so it can't draft")
        return session

    def open(self) -> Session:
        """A new sequence of the draft model."""
        return self.engine.session()

    @property
    def leaves(self) -> int:
        """Most leaves of a tree that both models take now."""
        chain = self.d.kind == "chain"
        return 1 if chain else min(self.target.session.can.branches, self.session.can.branches)

    def curves(self, tokens: Sequence[int]) -> Generator[Decode, Step, tuple[CostCurve, CostCurve]]:
        """What forwards of the target and of the draft model cost; measured at first use."""
        if self.d.curves is None:
            target = yield from known_curve(self.target.session.engine, 64, tokens, self.target.session)
            own = yield from known_curve(self.engine, 64, tokens, self.session)
            self.d.curves = target, own
        return self.d.curves

    def propose(self, tokens: Sequence[int], room: int) -> Generator[Decode, Step, Draft]:
        """A tree drawn from the draft model, as large as it pays."""
        if self.target.behind(tokens):
            return NO_DRAFT  # the prompt or a suffix is being fed
        if self.d.adaptive:
            if self.plan.due():
                target, own = yield from self.curves(tokens)
                self.plan.choose(target, own, context=self.target.session.length, leaves=self.leaves)
            if not self.plan.shape.parents:
                return NO_DRAFT
        keys, frame, phase = self.target.keys, self.target.frame, self.target.phase()
        if phase not in self.samples:
            # A greedy policy is drafted for largest first.
            row = HeardRow(Flat(self.target.session.can.vocabulary), ROOT, tokens, phase, keys, frame)
            self.samples[phase] = law_of(self.policy, row) is not None
        draws = Draws(keys, len(tokens)) if self.samples[phase] else None
        size = len(self.plan.shape.parents) if self.d.adaptive else self.d.size
        if self.d.below is not None:
            draft = yield from self.chain(self.d.below, tokens, min(size, room, self.d.depth), draws)
        else:
            draft = yield from self._tree(tokens, size, min(room, self.d.depth), draws)
        self.plan.begin(1 + len(draft))
        return draft

    def _tree(
        self, tokens: Sequence[int], size: int, depth: int, draws: Draws | None
    ) -> Generator[Decode, Step, Draft]:
        growth = Growth(None if draws is None else draws.choose)
        laws, leaves = _Laws(self, tokens), self.leaves
        if self.d.kind == "dyspec":
            threshold = 1.0 / (1 + size)
            yield from draw_threshold(growth, laws, threshold=threshold, nodes=size, layers=depth, leaves=leaves)
        elif self.d.kind == "dyspec-greedy":
            yield from draw_greedy(growth, laws, nodes=size, layers=depth, leaves=leaves)
        else:
            shape = self.plan.shape if self.d.adaptive else self._fixed(size, leaves)
            yield from draw_shape(growth, laws, shape.above(depth))
        return growth.draft()

    def chain(
        self, below: Drafter, tokens: Sequence[int], size: int, draws: Draws | None
    ) -> Generator[Decode, Step, Draft]:
        """A chain of the draft model whose forwards verify the drafts of a level below."""
        if self.below is None:
            target = self.target
            self.below = below.start(replace(target, session=self.session, keys=self.keys_below))
        self.keys_below.root = len(tokens)
        return (yield from middle_chain(self, self.below, tokens, size, draws))

    def _fixed(self, size: int, leaves: int) -> Shape:
        acceptance = tuple(PRIOR.values()) if self.d.kind == "sequoia" and leaves > 1 else (1.0,)
        return sequoia(acceptance, size + 1, self.d.depth + 1, leaves)

    def common(self, tokens: Sequence[int]) -> int:
        """How many of `tokens` the draft session has and can keep: the last one is always fed."""
        common = min(len(self.fed), len(tokens) - 1)
        if self.fed[:common] != list(tokens[:common]):
            common = next(i for i in range(common) if self.fed[i] != tokens[i])
        return common

    def feed(self, tokens: Sequence[int]) -> list[int]:
        """Bring the draft session to a common prefix with `tokens`; what it has not seen, the last token at least."""
        common = self.common(tokens)
        self.session.rollback(len(self.fed) - common)
        del self.fed[common:]
        pending = list(tokens[common:])
        self.fed += pending
        return pending

    def kept(self, tokens: Sequence[int]) -> None:
        """These were fed too, as an accepted draft."""
        self.fed += tokens

    def law(self, step: Step, node: int, tokens: Sequence[int]) -> Floats:
        """The law of the token behind `tokens`, which end at `node`: the run's policy on the draft model's logits."""
        target = self.target
        row = HeardRow(step, node, tokens, target.phase(), target.keys, target.frame)
        law = law_of(self.policy, row)
        return softmax(row.logits, DRAFT_TEMPERATURE) if law is None else law

    def observe(self, draft: Draft, accepted: Sequence[int]) -> None:
        """Which child was accepted at every node that the walk visited."""
        self.plan.end()
        if not draft.tokens:
            return
        node = ROOT
        for child in [*accepted, None]:
            children = [i for i, parent in enumerate(draft.parents) if parent == node]
            for rank, found in enumerate(children[:RANKS]):
                self.d.rates.note(str(rank), found == child)
            if child is None:
                break
            node = child

    def close(self) -> None:
        """Give the draft session's memory back."""
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
            step = yield Decode(run.session, run.feed(tokens))
            return [run.law(step, ROOT, tokens)]
        pending = run.feed(self.tokens)
        step = yield Decode(run.session, pending, Draft(draft.tokens, draft.parents))
        laws = [run.law(step, node, [*self.tokens, *_path(draft, node)]) for node in nodes]
        run.session.keep(())
        return laws


def _path(draft: Draft, node: int) -> list[int]:
    path: list[int] = []
    while node != ROOT:
        path.append(draft.tokens[node])
        node = draft.parents[node]
    return path[::-1]
