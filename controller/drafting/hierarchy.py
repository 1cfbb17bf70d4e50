"""Hierarchy drafting: candidates from the text so far, earlier runs, a model's database and a corpus, as one trie.

After Hierarchy Drafting's order of databases, with two changes: candidates are merged before they are verified, and
how many of them are is decided from measured costs and recent acceptance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..core.decode import NO_DRAFT, ROOT, Asking, Draft
from ..core.errors import ControllerError
from ..core.tokenizer import vocabulary_of
from .drafter import Drafter, Drafting, Target
from .ngrams import KEPT, Context, Recent, Table
from .planning.acceptance import AcceptanceRates
from .planning.cost import CostCurve, Stopwatch
from .planning.cost_cache import known_curve
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


@dataclass
class Hierarchy(Drafter):
    """Drafts from n-gram databases; deterministic, so that a drafted run gives the tokens of a plain one.

    size: most drafted tokens a step. model, corpus: databases from files; their vocabulary must be the target's.
    recent: earlier runs of this drafter are a database too. curve: forward times; None = measured at first use.
    """

    size: int = 48
    model: Table | None = None
    corpus: Table | None = None
    recent: Recent | None = field(default_factory=Recent)
    curve: CostCurve | None = None

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ControllerError(f"draft size is {self.size}; it must be at least 1")
        self.rates = AcceptanceRates(dict(PRIOR))

    def start(self, target: Target) -> HierarchyRun:
        """One run; raises ControllerError for a database of another vocabulary."""
        if self.model or self.corpus:
            wanted = vocabulary_of(target.tokenizer)
            for table in (self.model, self.corpus):
                if table is not None and table.vocabulary != wanted:
                    raise ControllerError(
                        f"the n-gram database of {table.source!r} has other token ids than this model; "
                        "make one for it with ctl ngrams"
                    )
        return HierarchyRun(self, target)

    def forget(self) -> None:
        """An empty memory of earlier runs; databases, and what is known of them, stay."""
        if self.recent is not None:
            self.recent = Recent(self.recent.capacity)


class HierarchyRun(Drafting):
    """One run's candidates: a tree with the kind of each edge and the chance of each node."""

    def __init__(self, drafter: Hierarchy, target: Target) -> None:
        self.d, self.target, self.session, self.rates = drafter, target, target.session, drafter.rates
        self.curve: CostCurve | None = drafter.curve
        self.watch: Stopwatch | None = None
        self.stake = LossBudget()
        self.context = Context()
        self.start = self.at = 0
        self.tokens: Sequence[int] = ()
        self._clear()

    def _clear(self) -> None:
        self.children: dict[int, dict[int, int]] = {}
        self.nodes: list[tuple[int, int]] = []
        self.kinds: list[str] = []
        self.values: list[float] = []

    def propose(self, tokens: Sequence[int], room: int) -> Asking[Draft]:
        """The part of the candidates that is worth its rows now."""
        if self.curve is None:
            self.curve = yield from known_curve(self.session.engine, tokens)
        if self.watch is None:
            self.watch = Stopwatch(self.curve, self.target.clock)
            self.start = len(tokens)
        self._learn(tokens)
        self.tokens, self.at = tokens, len(tokens)
        if self.target.is_prefill(tokens):
            return NO_DRAFT  # the prompt or a suffix is fed: its price says nothing about a step
        self._collect(tokens, min(room, self.d.size))
        draft = NO_DRAFT
        if self.values:
            found = Draft(tuple(token for _, token in self.nodes), tuple(parent for parent, _ in self.nodes))
            draft = best_part(
                found,
                self.values,
                self.curve,
                self.session.length,
                leaves=self.session.can.branches,
                size=min(self.d.size, self.target.fits(tokens)),
                stake=self.stake.left,
            )
        self.watch.begin(self.session.length)
        return draft

    def _learn(self, tokens: Sequence[int]) -> None:
        """Every candidate of the last step is judged by what was emitted, verified or not."""
        node = ROOT
        for token in tokens[self.at :] if self.nodes else ():
            candidates = self.children.get(node, {})
            for candidate, child in candidates.items():
                self.rates.note(self.kinds[child], candidate == token)
            if token not in candidates:
                break
            node = candidates[token]
        self._clear()

    def _collect(self, tokens: Sequence[int], depth: int) -> None:
        width = 0
        for place, length in self.context.matches(tokens):
            width += self._add(tokens[place : place + depth], f"context {_bucket(length)}", length)
        for name, source in (("recent", self.d.recent), ("model", self.d.model), ("corpus", self.d.corpus)):
            if width >= KEPT or source is None:
                continue
            for chain in source.continuations(tokens):
                width += self._add(chain[:depth], name, None)

    def _add(self, chain: Sequence[int], kind: str, length: int | None) -> bool:
        """Merge a chain of candidates; True if it begins with a token that no better one began with."""
        node, value, new = ROOT, 1.0, False
        for i, token in enumerate(chain):
            here = kind if i == 0 else f"{kind}+" if length is None else f"context {_bucket(length + i)}"
            siblings = self.children.setdefault(node, {})
            known = siblings.get(token)
            if known is None:
                here = f"{here}, not first" if siblings else here
                value *= self.rates.of(here)
                if value < LEAST or len(self.kinds) >= 2 * self.d.size:
                    break
                new = new or i == 0
                known = siblings[token] = len(self.kinds)
                self.nodes.append((node, token))
                self.kinds.append(here)
                self.values.append(value)
            value, node = self.values[known], known
        return new

    def observe(self, draft: Draft, accepted: Sequence[int]) -> None:
        """Time and price are read here; tokens are judged when the next step sees them."""
        if self.watch is None or self.curve is None:
            return
        at = self.watch.context
        if at is not None:
            price = self.curve.now(1 + len(draft), at) / self.curve.now(1, at)
            self.stake.settle(price, 1 + len(accepted))
        self.watch.end(1 + len(draft))

    def close(self) -> None:
        """What this run wrote helps later runs."""
        if self.d.recent is not None:
            self.d.recent.add(list(self.tokens[self.start :]))


def _bucket(length: int) -> int:
    """Lengths of match that are judged together."""
    return next((b for b in (16, 9, 6, 4, 3, 2) if length >= b), 1)
