"""One run of a drafter with a model: it plans, draws a draft from the model, and learns from its outcome."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from ...core.decode import NO_DRAFT, ROOT, UNLIMITED, Asking, Draft, Floats
from ..drafter import Drafter, Drafting, Target
from ..growth import Growth, draw_greedy, draw_shape, draw_threshold
from ..planning.acceptance import PRIOR, RANKS
from ..planning.cost import SharedCurve, counted
from ..planning.experience import Experience
from ..planning.meter import CATCH_UP, Curves, Prices
from ..planning.plan import DraftPlan, DraftSettings
from ..shapes import Shape, sequoia
from .cascade import Cascade, Draws
from .draft_distribution import DraftDistribution
from .draft_session import DraftSession

MOST_LEARNT = 32
"""Most missed tokens that acceptance by rank is learnt from at once."""
LEAST_LEARNT = 8
"""Fewest missed tokens that are worth a forward to learn from."""


@dataclass(slots=True)
class ExpectedStep:
    """A draft, and what the step that verifies it is expected to bring."""

    draft: Draft
    """What is verified."""
    emitted: float
    """Tokens that the step emits."""
    values: Sequence[float] | None = None
    """The draft model's estimate that each node is reached and accepted. None: not a dynamic tree."""
    seconds: float | None = None
    """Seconds that the step takes; None = no curves are known."""


class ModelRun(Drafting):
    """The drafts of one run that a model proposes.

    Args:
        settings: What the user set.
        experience: What earlier runs learnt; this run adds to it.
        target: The run that is drafted for.
        session: The draft model's sequence.
        curves: Where the cost curves come from.
        inner: Drafts for the draft model's chains; None = nothing does.
    """

    def __init__(
        self,
        settings: DraftSettings,
        experience: Experience,
        target: Target,
        session: DraftSession,
        curves: Curves,
        inner: Drafter | None,
    ) -> None:
        self.settings = settings
        self.experience = experience
        self.target = target
        self.session = session
        self.meter = session.meter
        self.plan = DraftPlan(settings, experience)
        self._curves = curves
        self._distribution = DraftDistribution(target)
        self._cascade = None if inner is None else Cascade(inner, target, session, self._distribution.probs)
        self._begin = 0
        """Tokens of the run when it was first asked for a draft; 0 = never."""
        self._seen = 0
        """Tokens of the run when it was last asked."""
        self._over = False
        """Whether the draft model can't draft any more in this run."""
        self._expected: ExpectedStep | None = None

    def propose(self, tokens: Sequence[int], room: int) -> Asking[Draft]:
        """A draft of the model, as large as it pays."""
        self._begin = self._begin or len(tokens)
        self._seen = len(tokens)
        self._expected = None
        if self.target.is_prefill(tokens):
            return NO_DRAFT
        context = self.target.session.length
        if self.settings.adaptive:
            yield from self._replan(tokens, room)
        nodes = self._fits(tokens) if self._drafts() else 0
        draft = NO_DRAFT
        if nodes:
            draft = yield from self._drafted(tokens, nodes, min(room, self.settings.depth), context)
        self.meter.begin_step(context, self.target.session.owed)
        return draft

    def observe(self, draft: Draft, accepted: Sequence[int]) -> None:
        """Count which child was accepted at every node that the walk visited, and what the step took."""
        self.meter.end_step(1 + len(draft))
        if not draft.tokens:
            return
        expected, acceptance = self._expected, self.experience.acceptance
        if expected is not None and expected.draft is draft:
            seconds = self.meter.step_seconds()
            self.experience.ledger.enter(expected.emitted, 1 + len(accepted), expected.seconds, seconds)
            if expected.values is not None:
                acceptance.note_values(draft, expected.values, accepted)
        acceptance.note_walk(draft, accepted)

    def close(self) -> None:
        """Give the draft model's sequence back, and note the run's length."""
        if self._seen:
            self.experience.note_length(self._seen - self._begin)
        if self._cascade is not None:
            self._cascade.close()
        self.session.close()

    # Whether, and how much.

    def _fits(self, tokens: Sequence[int]) -> int:
        """Most drafted tokens that both models have room for; warns once the draft model has none."""
        nodes = 0 if self._over else self.target.fits(tokens)
        if nodes < 1:
            return 0
        room = self.session.room(tokens)
        if room.problem is not None:
            self._over = True
            self.target.warnings.append(
                f"draft model {self.session.name!r} {room.problem}: this run goes on without drafts"
            )
        return min(nodes, room.nodes)

    @property
    def _leaves(self) -> int:
        """Most leaves of a tree that both models take now."""
        if self.settings.kind == "chain":
            return 1
        return min(self.target.session.can.branches, self.session.leaves)

    def _replan(self, tokens: Sequence[int], room: int) -> Asking[None]:
        """Make a new plan where one is due. Ranks of a greedy draft model are learnt from the tokens it missed."""
        if not self.plan.due():
            return
        self.meter.use((yield from self._curves.pair(tokens)))
        pauses = self.experience.pauses
        if pauses.after_attempt:
            self.experience.acceptance.ranks.relax()
            pauses.after_attempt = False
        nodes = self._fits(tokens)
        self._choose(tokens, room, nodes)
        if self.plan.shape.parents and not self._distribution.samples() and (yield from self._learn(tokens)):
            self._choose(tokens, room, nodes)

    def _choose(self, tokens: Sequence[int], room: int, nodes: int) -> None:
        prices = self._prices
        assert prices is not None
        context = self.target.session.length
        missing = self.session.missing(tokens)
        emitted = len(tokens) - self._begin
        self.plan.choose(
            prices,
            context=context,
            leaves=self._leaves,
            nodes=nodes,
            start=prices.draft.now(missing, context) if missing > CATCH_UP else 0.0,
            # A run that has gone on for long is expected to go on for as long again.
            remaining=min(room, max(self.experience.typical_length - emitted, emitted)),
        )
        idle = prices.target.cuts < UNLIMITED and not self.plan.shape.parents
        if idle and self.plan.pays_without(prices, context, nodes):
            self.target.note_fed_again()

    @property
    def _prices(self) -> Prices | None:
        """What forwards cost now. A batch multiplies the rows of each, so large batches draft little or nothing."""
        curves = self.meter.curves
        if curves is None:
            return None
        target, draft = self.target.clock.sharing, self.session.clock.sharing
        cuts = self.target.session.engine.cuts
        return Prices(SharedCurve(curves.target, target, cuts), SharedCurve(curves.draft, draft))

    def _drafts(self) -> bool:
        """Whether this step drafts: the plan has a shape, and no plain step is due."""
        if not self.settings.adaptive:
            if self.meter.curves is None and self.settings.curves is not None:
                self.meter.use(self.settings.curves)
            return True
        return bool(self.plan.shape.parents) and not self.meter.plain_due(self.plan.ratio)

    def _learn(self, tokens: Sequence[int]) -> Asking[bool]:
        """Feed what the draft model missed of the run's text, and count which rank each token would have had."""
        most = min(MOST_LEARNT, len(tokens) - self._begin, self.session.session.can.rows - 1)
        count = min(most, self.session.missing(tokens) - 1)
        if count < LEAST_LEARNT:
            return False
        missed = tokens[-count:]
        step = yield from self.session.decode(tokens[:-count], Draft.chain(missed))
        for node, token in enumerate(missed, start=ROOT):
            logits = step.logits(node)
            rank = int((logits > logits[token]).sum())
            self.experience.acceptance.note_rank(rank if rank < RANKS else None)
        self.session.keep(range(count))
        return True

    # What is drawn.

    def _drafted(self, tokens: Sequence[int], nodes: int, depth: int, context: int) -> Asking[Draft]:
        """Draw a draft. Remembers what is expected of its step, and times the drafter's own work."""
        missing = self.session.missing(tokens)
        self.meter.begin_draft()
        expected, work = yield from counted(self._drawn(tokens, nodes, depth))
        draft = expected.draft
        if draft.tokens:
            self.experience.note_work(work, len(draft))
            self.meter.note_work(work)
            prices = self._prices
            if prices is not None:
                expected.seconds = self.plan.seconds(draft.parents, prices, context, missing)
            self._expected = expected
        return draft

    def _drawn(self, tokens: Sequence[int], nodes: int, depth: int) -> Asking[ExpectedStep]:
        """A draft of so many nodes and layers at most, and the tokens that a step with it is expected to emit."""
        settings, acceptance = self.settings, self.experience.acceptance
        draws = Draws(self.target.keys, len(tokens)) if self._distribution.samples() else None
        size = min(len(self.plan.shape.parents) if settings.adaptive else settings.size, nodes)
        if self._cascade is not None:
            draft = yield from self._cascade.chain(tokens, min(size, depth), draws)
        elif draws is None and settings.kind == "chain":
            draft = yield from self._largest(tokens, min(size, depth))
        else:
            growth = Growth(None if draws is None else draws.choose)
            if settings.dynamic:
                yield from self._grow_dynamic(growth, tokens, size, nodes, depth)
                draft = growth.draft()
                return ExpectedStep(draft, acceptance.expected_by_value(draft, growth.values), growth.values)
            shape = self.plan.shape.first(size) if settings.adaptive else self._fixed_shape(size)
            yield from draw_shape(growth, partial(self._probs_after, tokens), shape.above(depth))
            draft = growth.draft()
        return ExpectedStep(draft, acceptance.expected(draft))

    def _largest(self, tokens: Sequence[int], size: int) -> Asking[Draft]:
        """A chain of most probable tokens; it needs no distribution."""
        path: list[int] = []
        for _ in range(size):
            step = yield from self.session.decode([*tokens, *path])
            path.append(int(step.logits(ROOT).argmax()))
        return Draft.chain(path)

    def _fixed_shape(self, size: int) -> Shape:
        """The shape that is drafted without a plan: a chain, or Sequoia's tree for the prior acceptance."""
        leaves = self._leaves
        acceptance = tuple(PRIOR.values()) if self.settings.kind == "sequoia" and leaves > 1 else (1.0,)
        return sequoia(acceptance, size + 1, self.settings.depth + 1, leaves)

    def _grow_dynamic(self, growth: Growth, tokens: Sequence[int], size: int, nodes: int, depth: int) -> Asking[None]:
        """Grow DySpec's tree: larger than planned where the draft model is sure, smaller where it isn't."""
        probs_after = partial(self._probs_after, tokens)
        leaves, threshold = self._leaves, 1.0 / (1 + size)
        if self.settings.adaptive:
            shape = self.plan.shape
            depth = min(depth, shape.depth())
            threshold = shape.least_slot(self.experience.acceptance.by_rank())
            size = min(2 * size, self.settings.size, nodes)
        if self.settings.kind == "dyspec":
            yield from draw_threshold(growth, probs_after, threshold=threshold, nodes=size, layers=depth, leaves=leaves)
        else:
            yield from draw_greedy(growth, probs_after, nodes=size, layers=depth, leaves=leaves)

    def _probs_after(self, tokens: Sequence[int], draft: Draft, nodes: Sequence[int]) -> Asking[list[Floats]]:
        """The draft model's distributions after some nodes of a growing tree."""
        probs = self._distribution.probs
        if draft.is_chain():
            # A chain is fed as it grows, one row at a time; the next proposal takes back what was rejected.
            text = [*tokens, *draft.tokens]
            step = yield from self.session.decode(text)
            return [probs(step, ROOT, text)]
        step = yield from self.session.decode(tokens, Draft(draft.tokens, draft.parents))
        found = [probs(step, node, [*tokens, *(draft.tokens[i] for i in draft.path(node))]) for node in nodes]
        self.session.keep(())
        return found
