"""Hierarchy drafting: candidates from the text so far, earlier runs, a model's database and a corpus, as one trie.

The order of databases is Hierarchy Drafting's. Two things differ: candidates are merged before they are verified, and
measured costs and recent acceptance decide how many of them are verified.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from ..core.decode import NO_DRAFT, ROOT, UNLIMITED, Asking, Draft, Engine, Need
from ..core.errors import ControllerError
from ..core.tokenizer import vocabulary_of
from .drafter import Drafter, Drafting, Target
from .ngrams import KEPT, Context, NgramTable, Recent
from .planning.acceptance import AcceptanceRates
from .planning.cost import CostCurve, SharedCurve, Stopwatch
from .planning.cost_cache import known_curve, measuring
from .planning.payoff import LossBudget, best_part

LEAST = 0.03
"""A candidate is followed while the chance that it is right so far is above this."""

PRIOR = {
    "context 1": 0.2,
    "context 2": 0.4,
    "context 3": 0.55,
    "context 4": 0.65,
    "context 6": 0.75,
    "context 9": 0.85,
    "context 16": 0.92,
    "recent": 0.3,
    "recent+": 0.6,
    "model": 0.3,
    "model+": 0.6,
    "corpus": 0.2,
    "corpus+": 0.5,
}
"""Chance that the next token is right, by source and length of match; soon replaced by what is seen."""

MATCH_LENGTHS = (16, 9, 6, 4, 3, 2)
"""Lengths of match with a rate of their own; a length between two of them has the shorter one's."""


@dataclass
class Hierarchy(Drafter):
    """Drafts from n-gram databases; deterministic, so that a drafted run gives the tokens of a plain one."""

    size: int = 48
    """Most drafted tokens a step."""
    model: NgramTable | None = None
    """The model's own outputs, from a file; its vocabulary must be the target's."""
    corpus: NgramTable | None = None
    """Other texts, from a file; its vocabulary must be the target's."""
    recent: Recent | None = field(default_factory=Recent)
    """What earlier runs of this drafter wrote; None = they are not remembered."""
    curve: CostCurve | None = None
    """What the target's forwards cost; None = measured at first use."""

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ControllerError(f"draft size is {self.size}; it must be at least 1")
        self.rates = AcceptanceRates(dict(PRIOR))

    def start(self, target: Target) -> HierarchyRun:
        """The drafts of one run.

        Raises:
            ControllerError: A database has another vocabulary than the target.
        """
        tables = [table for table in (self.model, self.corpus) if table is not None]
        vocabulary = vocabulary_of(target.tokenizer) if tables else ""
        most = target.session.can.vocabulary
        for table in tables:
            if table.vocabulary != vocabulary or table.largest >= most:
                raise ControllerError(
                    f"the n-gram database of {table.source!r:.80} has other token ids than this model; "
                    "make one for it with ctl ngrams"
                )
        return HierarchyRun(self, target)

    def needs(self, engine: Engine, length: int) -> tuple[Need, ...]:
        """Room for a tree's branches, and for measuring."""
        return (Need(engine, self.size, 0), *(measuring(engine) if self.curve is None else ()))

    def forget(self) -> None:
        """Empty the memory of earlier runs; databases, and what is known of them, stay."""
        if self.recent is not None:
            self.recent = Recent(self.recent.capacity)


_UNLISTED: WeakKeyDictionary[Engine, str] = WeakKeyDictionary()
"""Names of the vocabularies of engines whose tokenizer can't list its own."""


def _own_ids(target: Target) -> str:
    """Names whose token ids the target's are; where a vocabulary can't be listed, each engine has its own."""
    try:
        name = vocabulary_of(target.tokenizer)
    except ControllerError:
        engine = target.session.engine
        name = engine.identity or _UNLISTED.setdefault(engine, secrets.token_hex(8))
    return f"{target.session.can.vocabulary} {name}"


class CandidateTrie:
    """Chains of candidates merged to a trie, each node with its kind and the chance that it is accepted."""

    def __init__(self, rates: AcceptanceRates, most: int) -> None:
        self.tokens: list[int] = []
        """The token of each node."""
        self.parents: list[int] = []
        """The node before each node, or ROOT."""
        self.values: list[float] = []
        """The chance that each node is accepted."""
        self._kinds: list[str] = []
        self._children: dict[int, dict[int, int]] = {}
        """The child of a node that holds a token."""
        self._rates = rates
        self._most = most

    def add(self, chain: Sequence[int], source: str, length: int | None) -> bool:
        """Merge a chain.

        Args:
            chain: The candidates, each after the one before.
            source: Where they come from.
            length: Tokens of the text that match before the chain; None = the source doesn't say.

        Returns:
            Whether the chain begins with a token that no chain before it began with.
        """
        node = ROOT
        value = 1.0
        is_new = False
        for i, token in enumerate(chain):
            siblings = self._children.setdefault(node, {})
            known = siblings.get(token)
            if known is None:
                kind = _kind(source, length, i)
                if siblings:
                    kind = f"{kind}, not first"
                value *= self._rates.of(kind)
                if value < LEAST or len(self.tokens) >= self._most:
                    break
                is_new = is_new or i == 0
                known = siblings[token] = len(self.tokens)
                self.tokens.append(token)
                self.parents.append(node)
                self.values.append(value)
                self._kinds.append(kind)
            value = self.values[known]
            node = known
        return is_new

    def learn(self, emitted: Sequence[int]) -> None:
        """Compare the candidates on the way with what was emitted, verified or not."""
        if not self.tokens:
            return
        node = ROOT
        for token in emitted:
            children = self._children.get(node, {})
            for candidate, child in children.items():
                self._rates.note(self._kinds[child], candidate == token)
            if token not in children:
                break
            node = children[token]

    def draft(self) -> Draft:
        """All of them."""
        return Draft(tuple(self.tokens), tuple(self.parents))


def _kind(source: str, length: int | None, depth: int) -> str:
    """What a candidate is counted as: its source, and how well it matches; `depth` candidates stand before it."""
    if length is not None:
        matching = length + depth
        return f"{source} {next((known for known in MATCH_LENGTHS if matching >= known), 1)}"
    return f"{source}+" if depth else source


class HierarchyRun(Drafting):
    """One run's candidates, what they cost, and what the run can afford to lose by them."""

    def __init__(self, drafter: Hierarchy, target: Target) -> None:
        self.drafter = drafter
        self.target = target
        self.ids = _own_ids(target) if drafter.recent is not None else ""
        """Names whose token ids the run's are, for the memory of earlier runs."""
        self.curve: CostCurve | None = drafter.curve
        self.watch: Stopwatch | None = None
        self.losses = LossBudget()
        self.context = Context()
        self.candidates = self._no_candidates()
        self.tokens: Sequence[int] = ()
        """The run's text when it was last asked for a draft."""
        self.begin = 0
        """Tokens of the text when it was first asked for a draft."""
        self.seen = 0
        """Tokens of the text when the candidates were collected."""

    def propose(self, tokens: Sequence[int], room: int) -> Asking[Draft]:
        """The part of the candidates that is worth its rows now."""
        session = self.target.session
        if self.curve is None:
            self.curve = yield from known_curve(session.engine, tokens)
        if self.watch is None:
            self.watch = Stopwatch(self.curve, self.target.clock)
            self.begin = len(tokens)
        self.candidates.learn(tokens[self.seen :])
        self.candidates = self._no_candidates()
        self.tokens = tokens
        self.seen = len(tokens)
        if self.target.is_prefill(tokens):
            return NO_DRAFT
        self._collect(tokens, min(room, self.drafter.size))
        draft = NO_DRAFT
        if self.candidates.values:
            size = min(self.drafter.size, self.target.fits(tokens))
            cuts = session.engine.cuts
            draft = self._best(self.curve, size, cuts)
            if not draft.tokens and cuts < UNLIMITED and self._best(self.curve, size, UNLIMITED).tokens:
                self.target.note_fed_again()
        self.watch.begin(session.length, session.owed)
        return draft

    def _best(self, curve: CostCurve, size: int, cuts: int) -> Draft:
        """The part of the candidates that pays, where rejections of longer drafts feed tokens again."""
        session = self.target.session
        return best_part(
            self.candidates.draft(),
            self.candidates.values,
            curve,
            session.length,
            leaves=session.can.branches,
            size=size,
            losses=self.losses.left,
            sharing=self.target.clock.sharing,
            cuts=cuts,
        )

    def observe(self, draft: Draft, accepted: Sequence[int]) -> None:
        """Count the step's price; its tokens are counted when the next step sees them."""
        if self.watch is None or self.curve is None:
            return
        context = self.watch.context
        if context is not None:
            sharing = self.target.clock.sharing
            curve = SharedCurve(self.curve, sharing, self.target.session.engine.cuts)
            seconds = curve.drafted(len(draft), context, len(accepted), float(len(accepted) == len(draft)))
            self.losses.settle(seconds / curve.now(1, context), 1 + len(accepted))
        self.watch.end(1 + len(draft))

    def close(self) -> None:
        """Remember what this run wrote, for later runs."""
        if self.drafter.recent is not None:
            self.drafter.recent.add(list(self.tokens[self.begin :]), self.ids)

    def _no_candidates(self) -> CandidateTrie:
        return CandidateTrie(self.drafter.rates, 2 * self.drafter.size)

    def _collect(self, tokens: Sequence[int], depth: int) -> None:
        """Gather candidates, the best sources first, until KEPT different first tokens were found."""
        width = 0
        for place, length in self.context.matches(tokens):
            width += self.candidates.add(tokens[place : place + depth], "context", length)
        recent, tables = self.drafter.recent, {"model": self.drafter.model, "corpus": self.drafter.corpus}
        if width < KEPT and recent is not None:
            width += self._add(recent.continuations(tokens, self.ids), "recent", depth)
        for name, table in tables.items():
            if width < KEPT and table is not None:
                width += self._add(table.continuations(tokens), name, depth)

    def _add(self, chains: Sequence[Sequence[int]], source: str, depth: int) -> int:
        """Merge a source's chains; the number of new first tokens."""
        return sum([self.candidates.add(chain[:depth], source, None) for chain in chains])
