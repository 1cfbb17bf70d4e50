"""One run of a drafter with a model: its draft session, what fits, when it is planned anew, what it cost and brought.

What is drawn from the model is the business of `model_draft.py`.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from ...core.decode import NO_DRAFT, ROOT, Clock, Decode, Draft, Engine, Floats, Session, Step
from ...core.errors import ControllerError
from ...core.randomness import InnerKeys
from ...thinking.markers import Phase
from ..drafter import Drafter, Drafting, Target
from ..growth import Growth, draw_greedy, draw_shape, draw_threshold
from ..planning.acceptance import PRIOR, RANKS, Planned
from ..planning.cost import CostCurve, Stopwatch, counted
from ..planning.cost_cache import known_curve
from ..planning.plan import DraftPlan
from ..shapes import Shape, sequoia
from .cascade import Draws, middle_chain
from .draft_policy import DraftRow, UniformStep, for_drafts, law_of, softmax

CATCH_UP = 32
"""More rows than this at once are the draft model's catching up, and no step like others."""
LEARNT = 32
"""Most missed tokens that ranks are learnt from."""


class PlannedRun(Drafting):
    """One run's draft session and plan."""

    def __init__(self, drafter: Planned, target: Target, engine: Engine, name: str, context: int) -> None:
        self.d, self.target, self.engine, self.name, self.context = drafter, target, engine, name, context
        self.policy = for_drafts(target.policy)
        self.fed: list[int] = []
        self.plan = DraftPlan(drafter)
        self._samples: dict[Phase, bool] = {}
        self.keys_inner = InnerKeys(target.keys)
        self.inner: Drafting | None = None
        self.begun = self.seen = 0
        self.clock = Clock()
        self.used: tuple[CostCurve, CostCurve] | None = None
        self.watch: Stopwatch | None = None
        self.spent: float | None = None
        self.proposed: tuple[Draft, float, float | None] | None = None
        self.slots: Sequence[float] | None = None
        """Values in a dynamic tree."""
        self.over = False

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

    def samples(self, tokens: Sequence[int]) -> bool:
        """Whether the policy draws where the run stands now; a greedy one is drafted for largest first."""
        target, phase = self.target, self.target.phase()
        if phase not in self._samples:
            row = DraftRow(UniformStep(target.session.can.vocabulary), ROOT, tokens, phase, target.keys, target.frame)
            self._samples[phase] = law_of(self.policy, row) is not None
        return self._samples[phase]

    @property
    def leaves(self) -> int:
        """Most leaves of a tree that both models take now."""
        chain = self.d.kind == "chain"
        return 1 if chain else min(self.target.session.can.branches, self.session.can.branches)

    def curves(self, tokens: Sequence[int]) -> Generator[Decode, Step, tuple[CostCurve, CostCurve]]:
        """What forwards of the target and of the draft model cost; measured at first use."""
        known = self.d.curves or self.used
        if known is not None:
            return known
        target = yield from known_curve(self.target.session.engine, tokens)
        return target, (yield from known_curve(self.engine, tokens))

    def fits(self, tokens: Sequence[int]) -> int:
        """Most drafted tokens that both models have room for; once the draft model has none the Trace says so."""
        nodes = 0 if self.over else self.target.fits(tokens)
        if nodes < 1:
            return 0
        can, unseen = self.session.can, tokens[self.common(tokens) :]
        own = min(can.rows - 1, can.free + len(self.fed) - len(tokens), self.context - len(tokens))
        if max(unseen) >= can.vocabulary:
            self._end(f"has no token {max(unseen)}")
        elif own < 1:
            self._end(f"has no room for more than {len(tokens)} tokens")
        return 0 if self.over else min(nodes, own)

    def _end(self, why: str) -> None:
        self.over = True
        self.target.warnings.append(f"draft model {self.name!r} {why}: this run goes on without drafts")

    def missing(self, tokens: Sequence[int]) -> int:
        """How many tokens the draft model must be fed before it can draft."""
        return len(tokens) - self.common(tokens)

    def replan(self, tokens: Sequence[int], room: int) -> Generator[Decode, Step, None]:
        """A new plan where one is due. A greedy draft model learns its ranks from the tokens that it missed."""
        if not self.plan.due():
            return
        self._use((yield from self.curves(tokens)))
        if self.d.rested:
            self.d.rates.relax()
            self.d.rested = False
        nodes = self.fits(tokens)
        self._choose(tokens, room, nodes)
        if self.plan.shape.parents and not self.samples(tokens) and (yield from self._learn(tokens)):
            self._choose(tokens, room, nodes)

    def _choose(self, tokens: Sequence[int], room: int, nodes: int) -> None:
        assert self.used is not None
        at, missing, emitted = self.target.session.length, self.missing(tokens), len(tokens) - self.begun
        self.plan.choose(
            *self.used,
            context=at,
            leaves=self.leaves,
            nodes=nodes,
            start=self.used[1].now(missing, at) if missing > CATCH_UP else 0.0,
            # Of runs that went on for long most go on for long.
            remaining=min(room, max(self.d.typical - emitted, emitted)),
        )

    def _use(self, curves: tuple[CostCurve, CostCurve]) -> None:
        if self.used is None or self.used[0] is not curves[0]:
            self.watch = Stopwatch(curves[0], self.target.clock)
        self.used = curves

    def drafts(self) -> bool:
        """Whether this step drafts: the plan says so, and no plain step is due."""
        if not self.d.adaptive:
            if self.used is None and self.d.curves is not None:
                self._use(self.d.curves)
            return True
        return bool(self.plan.shape.parents) and not (self.used and self.used[0].plain_due(self.plan.ratio))

    def _learn(self, tokens: Sequence[int]) -> Generator[Decode, Step, bool]:
        """Feed what was missed of the run's own text, and see of which rank each of its tokens would have been."""
        n = min(LEARNT, self.missing(tokens) - 1, len(tokens) - self.begun, self.session.can.rows - 1)
        if n < 8:
            return False
        known, missed = tokens[:-n], tokens[-n:]
        step = yield from self.decode(known, Draft.chain(missed))
        for node, token in enumerate(missed, start=ROOT):
            logits = step.logits(node)
            rank = int((logits > logits[token]).sum())
            self.d.note_ranks(rank if rank < RANKS else None)
        self.session.keep(range(n))
        self.kept(missed)
        return True

    def common(self, tokens: Sequence[int]) -> int:
        """How many of `tokens` the draft session has and can keep: the last one is always fed."""
        common = min(len(self.fed), len(tokens) - 1)
        if self.fed[:common] != list(tokens[:common]):
            common = next(i for i in range(common) if self.fed[i] != tokens[i])
        return common

    def decode(self, tokens: Sequence[int], draft: Draft = NO_DRAFT) -> Generator[Decode, Step, Step]:
        """One forward of the draft model behind `tokens`; its price is noted."""
        pending = self.feed(tokens)
        at, rows = self.session.length, len(pending) + len(draft)
        step = yield Decode(self.session, pending, draft, clock=self.clock)
        seconds = self.clock.seconds
        if rows > CATCH_UP or seconds is None:
            self.spent = None  # no step like others
        else:
            self.spent = None if self.spent is None else self.spent + seconds
            if self.used is not None:
                self.used[1].note(rows, seconds, at)
        size = self.target.session.can.vocabulary
        return step if self.session.can.vocabulary <= size else _Narrow(step, size)

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

    def observe(self, draft: Draft, accepted: Sequence[int]) -> None:
        """Which child was accepted at every node that the walk visited."""
        if self.watch is not None:
            self.watch.end(1 + len(draft))
        if not draft.tokens:
            return
        if self.proposed is not None and self.proposed[0] is draft:
            _, expected, seconds = self.proposed
            own, other = self.spent, self.target.clock.seconds
            took = own + other if own is not None and other is not None else None
            self.d.ledger.enter(expected, 1 + len(accepted), seconds, took)
            if self.slots is not None:
                self.d.note_slots(draft, self.slots, accepted)
        node = ROOT
        for child in [*accepted, None]:
            children = [i for i, parent in enumerate(draft.parents) if parent == node][:RANKS]
            self.d.note_ranks(children.index(child) if child in children else None, len(children))
            if child is None:
                break
            node = child


class _Narrow:
    """A step of a model whose vocabulary is padded further than the target's."""

    def __init__(self, step: Step, size: int) -> None:
        self._step, self._size = step, size

    def logits(self, node: int) -> Floats:
        return self._step.logits(node)[: self._size]

    def hidden(self, node: int, layer: int) -> Floats:
        return self._step.hidden(node, layer)


DRAFT_TEMPERATURE = 0.6
"""Of the values of a greedy target's drafts: a one-hot law would say nothing about what comes second."""


class ModelRun(PlannedRun):
    """One run: what is drawn from the draft model."""

    def propose(self, tokens: Sequence[int], room: int) -> Generator[Decode, Step, Draft]:
        """A tree drawn from the draft model, as large as it pays."""
        self.begun, self.seen = self.begun or len(tokens), len(tokens)
        self.proposed = self.slots = None
        if self.target.is_prefill(tokens):
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
        if self.d.inner is not None:
            draft = yield from self.chain(self.d.inner, tokens, min(size, depth), draws)
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
        self, inner: Drafter, tokens: Sequence[int], size: int, draws: Draws | None
    ) -> Generator[Decode, Step, Draft]:
        """A chain of the draft model whose forwards verify the drafts of an inner drafter."""
        if self.inner is None:
            target = self.target
            self.inner = inner.start(replace(target, session=self.session, keys=self.keys_inner, clock=self.clock))
        self.keys_inner.root = len(tokens)
        return (yield from middle_chain(self, self.inner, tokens, size, draws))

    def _fixed(self, size: int, leaves: int) -> Shape:
        acceptance = tuple(PRIOR.values()) if self.d.kind == "sequoia" and leaves > 1 else (1.0,)
        return sequoia(acceptance, size + 1, self.d.depth + 1, leaves)

    def law(self, step: Step, node: int, tokens: Sequence[int]) -> Floats:
        """The law of the token behind `tokens`, which end at `node`: the run's policy on the draft model's logits."""
        target = self.target
        row = DraftRow(step, node, tokens, target.phase(), target.keys, target.frame)
        law = law_of(self.policy, row)
        return softmax(row.logits, DRAFT_TEMPERATURE) if law is None else law

    def close(self) -> None:
        """Give the draft session's memory back."""
        if self.seen:
            self.d.note_length(self.seen - self.begun)
        if self.inner is not None:
            self.inner.close()
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
