"""Drafting by a smaller model with the same vocabulary: chains, Sequoia's static trees, DySpec's dynamic ones.

The draft follows the run's own policy on the draft model's logits: truncation and temperature match the target's.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol

from .cost import CostCurve, known_curve
from .decode import NO_DRAFT, ROOT, Decode, Draft, Engine, Floats, Proposal, Session, Step
from .drafters import PromptLookup, Target
from .errors import ControllerError
from .laws import HeardRow, law_of, samples, softmax
from .ngrams import vocabulary_hash
from .policy import draw
from .randomness import DRAFT
from .speed import MARGIN, Rates, Stopwatch
from .thinking import Tokenizer
from .trees import Growth, Shape, best_shape, draw_greedy, draw_shape, draw_threshold, monotone, sequoia

Kind = Literal["chain", "sequoia", "dyspec", "dyspec-greedy"]
SIZES = (2, 3, 4, 5, 6, 8, 12, 16, 24, 32)
RANKS = 4
DRAFT_TEMPERATURE = 0.6
"""Of the values of a greedy target's drafts: a one-hot law would say nothing about what comes second."""
REPLAN, PAUSE, LONGEST_PAUSE = 16, 64, 1024
"""Steps between two plans; plain steps before drafting that did not pay is tried again, at first and at most."""
PRIOR = {"0": 0.7, "1": 0.12, "2": 0.05, "3": 0.02}


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


class ModelDrafter:
    """Drafts of a smaller model. kind: the tree; size, depth: most drafted tokens a step, most of them on a path.

    Size, depth and branching are planned from recent acceptance by rank and from both models' measured forward times;
    where no plan beats plain decoding nothing is drafted, and it is tried again now and then. `adaptive` False: one
    shape of `size` tokens, so that a run depends on its keys only. With a greedy target a draft is a function of the
    past; else it is drawn, by the run's own keys. below: chains of the draft model are themselves drafted for by
    n-grams (two levels, as in TriForce); what the middle level hands up follows its own law exactly.
    """

    def __init__(
        self, model: DraftModel, *, kind: Kind = "sequoia", size: int = 16, depth: int = 8, adaptive: bool = True,
        curves: tuple[CostCurve, CostCurve] | None = None, below: PromptLookup | None = None,
    ) -> None:  # fmt: skip
        if size < 1 or depth < 1:
            raise ControllerError(f"draft size is {size} and depth {depth}; both must be at least 1")
        self.model, self.kind, self.size, self.depth = model, kind, size, depth
        if below is not None and kind != "chain":
            raise ControllerError(f"a level below drafts chains; kind is {kind!r}")
        self.adaptive, self.curves, self.below = adaptive, curves, below
        self.rates = Rates(dict(PRIOR), strength=10.0)
        self._checked: object = None

    def start(self, target: Target) -> ModelRun:
        """One run; raises ControllerError if the vocabularies differ or the draft model can't take tokens back."""
        if self._checked is not target.tokenizer:
            if vocabulary_hash(self.model.tokenizer) != vocabulary_hash(target.tokenizer):
                raise ControllerError(
                    f"{self.model.name!r} has other token ids than the target; draft with a model of the same family"
                )
            self._checked = target.tokenizer
        return ModelRun(self, target)


class ModelRun:
    """One run's draft session and plan."""

    def __init__(self, drafter: ModelDrafter, target: Target) -> None:
        self.d, self.target = drafter, target
        self.engine = drafter.model.engine
        self.fed: list[int] = []
        self.shape = Shape()
        self.steps = self.pause = 0
        self.next_pause = PAUSE
        self.samples: bool | None = None
        self.watch: Stopwatch | None = None

    @cached_property
    def session(self) -> Session:
        """Opened when first needed: a run that never begins holds nothing."""
        session = self.engine.session()
        if not session.can.rollback or not session.can.branches:
            session.close()
            raise ControllerError(f"{self.d.model.name!r} can't take rejected tokens back, so it can't draft")
        return session

    @property
    def leaves(self) -> int:
        """Most leaves of a tree that both models take now."""
        chain = self.d.kind == "chain"
        return 1 if chain else min(self.target.session.can.branches, self.session.can.branches)

    def propose(self, tokens: Sequence[int], room: int) -> Generator[Decode, Step, Draft]:
        """A tree drawn from the draft model, as large as it pays."""
        if self.target.session.length < len(tokens) - 1:
            return NO_DRAFT  # the prompt or a suffix is being fed
        if self.d.adaptive:
            yield from self._plan(tokens)
            if not self.shape.parents:
                return NO_DRAFT
        leaves = self.leaves
        if self.samples is None:
            # A greedy policy is drafted for largest first.
            self.samples = samples(self.target.policy, self.target.session.can.vocabulary, self.target.keys)
        growth = Growth(self._chooser(tokens) if self.samples else None)
        laws = _Laws(self, tokens)
        depth = min(room, self.d.depth)
        size = len(self.shape.parents) if self.d.adaptive else self.d.size
        if self.d.below is not None:
            draft = yield from self._two_levels(self.d.below, tokens, min(size, depth))
            if self.watch is not None:
                self.watch.begin(1 + len(draft))
            return draft
        if self.d.kind == "dyspec":
            threshold = 1.0 / (1 + size)
            yield from draw_threshold(growth, laws, threshold=threshold, nodes=size, layers=depth, leaves=leaves)
        elif self.d.kind == "dyspec-greedy":
            yield from draw_greedy(growth, laws, nodes=size, layers=depth, leaves=leaves)
        else:
            shape = self.shape if self.d.adaptive else self._fixed(size, leaves)
            yield from draw_shape(growth, laws, shape.above(depth))
        if self.watch is not None:
            self.watch.begin(1 + len(growth))
        return growth.draft()

    def _two_levels(self, below: PromptLookup, tokens: Sequence[int], size: int) -> Generator[Decode, Step, Draft]:
        """A chain of the draft model, whose forwards verify n-gram drafts.

        A token is drawn from the draft model's law first and the guess that holds it is followed, so that the law of
        every token is that law and the target may test against it. (Redrawing after a rejection would not do.)
        """
        choose = self._chooser(tokens) if self.samples else None
        path: list[int] = []
        proposals: dict[int, Proposal] = {}
        while len(path) < size:
            here = [*tokens, *path]
            guess = (yield from below.propose(here, size - len(path) - 1)) if len(path) < size - 1 else NO_DRAFT
            laws = _Laws(self, tokens)
            step = yield Decode(self.session, self.feed(here), guess)
            node, walked = ROOT, list[int]()
            while len(path) < size:
                law = laws.law(step, node, path)
                token = int(law.argmax()) if choose is None else choose(law)
                if choose is not None:
                    proposals[len(path) - 1] = Proposal(law, (token,))
                path.append(token)
                child = guess.child(node, token)
                if child is None:
                    break
                walked.append(child)
                node = child
            self.session.keep(walked)
            self.fed += [guess.tokens[child] for child in walked]
        return Draft(tuple(path), tuple(range(-1, len(path) - 1)), proposals)

    def _fixed(self, size: int, leaves: int) -> Shape:
        acceptance = tuple(PRIOR.values()) if self.d.kind == "sequoia" and leaves > 1 else (1.0,)
        return sequoia(acceptance, size + 1, self.d.depth + 1, leaves)

    def _chooser(self, tokens: Sequence[int]) -> Any:
        """Draws keyed by the place of the draft's root, so that no two drafts of a run share one."""
        keys, at, count = self.target.keys, len(tokens), 0

        def choose(law: Floats) -> int:
            nonlocal count
            count += 1
            return draw(law, keys.uniform(at, DRAFT, count - 1))

        return choose

    def _acceptance(self) -> tuple[float, ...]:
        ranks = [str(k) for k in range(RANKS)]
        smooth = monotone([self.d.rates.of(k) for k in ranks], [self.d.rates.weight(k) for k in ranks])
        total = max(1.0, sum(smooth) / 0.999)
        return tuple(p / total for p in smooth)

    def _plan(self, tokens: Sequence[int]) -> Generator[Decode, Step, None]:
        """Every REPLAN steps: the best shape under both cost curves, or a pause."""
        self.steps += 1
        if self.pause:
            self.pause -= 1
            if self.pause == 0:
                self.d.rates.relax()
            return
        if self.watch is not None and self.shape.parents and self.steps % REPLAN:
            return
        if self.d.curves is None:
            target = yield from known_curve(self.target.session.engine, 64, tokens, self.target.session)
            own = yield from known_curve(self.engine, 64, tokens, self.session)
            self.d.curves = target, own
        target, own = self.d.curves
        self.watch = self.watch or Stopwatch(target)
        context = self.target.session.length
        chain, leaves = self.leaves == 1, self.leaves
        acceptance = self._acceptance()[: 1 if chain else RANKS]
        layer = own.now(1 if chain else 4, context)
        self.shape, rate = best_shape(
            # Behind the last layer the draft model isn't asked.
            acceptance, lambda n: target.now(n, context) - (layer if n > 1 else 0.0), layer,
            sizes=[n for n in SIZES if n <= self.d.size + 1], layers=self.d.depth + 1, leaves=leaves,
        )  # fmt: skip
        if rate * target.now(1, context) < MARGIN:
            self.shape, self.pause = Shape(), self.next_pause
            self.next_pause = min(2 * self.next_pause, LONGEST_PAUSE)

    def feed(self, tokens: Sequence[int]) -> list[int]:
        """Bring the draft session to a common prefix with `tokens`; what it has not seen, the last token at least."""
        common = min(len(self.fed), len(tokens) - 1)
        if self.fed[:common] != list(tokens[:common]):
            common = next(i for i in range(common) if self.fed[i] != tokens[i])
        self.session.rollback(len(self.fed) - common)
        del self.fed[common:]
        pending = list(tokens[common:])
        self.fed += pending
        return pending

    def observe(self, draft: Draft, accepted: Sequence[int]) -> None:
        """Which child was accepted at every node that the walk visited."""
        if self.watch is not None:
            self.watch.end()
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
            step = yield Decode(run.session, run.feed([*self.tokens, *draft.tokens]))
            return [self.law(step, ROOT, draft.tokens)]
        pending = run.feed(self.tokens)
        step = yield Decode(run.session, pending, Draft(draft.tokens, draft.parents))
        laws = [self.law(step, node, _path(draft, node)) for node in nodes]
        run.session.keep(())
        return laws

    def law(self, step: Step, node: int, path: Sequence[int]) -> Floats:
        target = self.run.target
        row = HeardRow(step, node, [*self.tokens, *path], "answer", target.keys)
        law = law_of(target.policy, row)
        return softmax(row.logits, DRAFT_TEMPERATURE) if law is None else law


def _path(draft: Draft, node: int) -> list[int]:
    path: list[int] = []
    while node != ROOT:
        path.append(draft.tokens[node])
        node = draft.parents[node]
    return path[::-1]
