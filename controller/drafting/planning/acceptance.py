"""How often drafted tokens are accepted, and how many tokens a draft is therefore expected to emit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ...core.decode import ROOT, Draft
from ..shapes import monotone

RANKS = 4
"""Children of a node whose acceptance is estimated, by the order in which they were drawn."""
PRIOR = {"0": 0.7, "1": 0.12, "2": 0.05, "3": 0.02}
"""Acceptance by rank before any outcome was seen."""
BUCKETS = 10
"""Buckets of equal width for the draft model's own estimate of a child's acceptance."""
PRIOR_WEIGHT = 10.0
"""Outcomes that the priors of ranks and of buckets are worth at first."""
FORGET = 0.98
"""Weight of the past at each new outcome: about fifty outcomes are remembered."""


@dataclass(slots=True)
class _Outcomes:
    """What was seen of one kind, with exponential forgetting."""

    successes: float
    """Successes, each worth less with every later outcome."""
    count: float
    """Outcomes, discounted in the same way."""
    prior_weight: float
    """Outcomes that the prior is worth now."""


@dataclass
class AcceptanceRates:
    """Success rates by kind, with exponential forgetting and a prior.

    >>> rates = AcceptanceRates({"long": 0.9}); rates.note("long", False); round(rates.of("long"), 3)
    0.75
    """

    prior: dict[str, float]
    """The rate of each kind before any outcome."""
    strength: float = 5.0
    """Outcomes that the prior is worth."""
    default: float = 0.1
    """The prior of a kind that `prior` doesn't name."""
    fades: bool = False
    """Whether the prior is forgotten too.

    A prior that stays suits many kinds, each seen rarely: the best of them is often a lucky one, and the prior holds it
    down. A prior that fades suits few kinds that are seen often.
    """
    _seen: dict[str, _Outcomes] = field(default_factory=dict)
    """Outcomes by kind."""

    def note(self, kind: str, hit: bool) -> None:
        """Count one outcome."""
        seen = self._seen.get(kind)
        if seen is None:
            seen = self._seen[kind] = self._unseen()
        seen.successes = FORGET * seen.successes + hit
        seen.count = FORGET * seen.count + 1.0
        if self.fades:
            seen.prior_weight *= FORGET

    def relax(self) -> None:
        """Forget half of what was seen: for rates that could not be watched for a while."""
        for seen in self._seen.values():
            seen.successes /= 2
            seen.count /= 2
            seen.prior_weight = (seen.prior_weight + self.strength) / 2

    def of(self, kind: str) -> float:
        """The current estimate of a kind's rate."""
        seen = self._seen.get(kind) or self._unseen()
        successes = seen.successes + seen.prior_weight * self.prior.get(kind, self.default)
        return successes / (seen.count + seen.prior_weight)

    def weight(self, kind: str) -> float:
        """The outcomes that the estimate rests on, the prior's among them."""
        seen = self._seen.get(kind) or self._unseen()
        return seen.count + seen.prior_weight

    def _unseen(self) -> _Outcomes:
        return _Outcomes(0.0, 0.0, self.strength)


class Acceptance:
    """Acceptance of a draft model's tokens, by rank among siblings and by the draft model's own estimate.

    A node's *value* is the draft model's estimate that the node is reached and accepted. Value over the parent's value
    is its estimate for the node alone, and falls into a bucket.
    """

    def __init__(self) -> None:
        self.ranks = AcceptanceRates(dict(PRIOR), strength=PRIOR_WEIGHT, fades=True)
        self.buckets = AcceptanceRates(
            {str(bucket): (bucket + 0.5) / BUCKETS for bucket in range(BUCKETS)},
            strength=PRIOR_WEIGHT,
            fades=True,
        )

    def by_rank(self) -> tuple[float, ...]:
        """Acceptance of each rank: non-increasing, and with a sum below 1, since at most one sibling is accepted."""
        ranks = [str(rank) for rank in range(RANKS)]
        rates = monotone([self.ranks.of(rank) for rank in ranks], [self.ranks.weight(rank) for rank in ranks])
        left = 0.999
        bounded: list[float] = []
        for rate in rates:
            bounded.append(min(rate, left))
            left -= bounded[-1]
        return tuple(bounded)

    def note_rank(self, accepted: int | None, ranks: int = RANKS) -> None:
        """Count the outcome of one node's children.

        Args:
            accepted: The rank of the emitted token; None = no child holds it.
            ranks: Number of children.
        """
        for rank in range(ranks):
            self.ranks.note(str(rank), rank == accepted)

    def note_walk(self, draft: Draft, accepted: Sequence[int]) -> None:
        """Count, by rank, which child was accepted at every node that the walk over a draft visited."""
        node = ROOT
        for child in [*accepted, None]:
            children = [i for i, parent in enumerate(draft.parents) if parent == node][:RANKS]
            self.note_rank(children.index(child) if child in children else None, len(children))
            if child is not None:
                node = child

    def note_values(self, draft: Draft, values: Sequence[float], accepted: Sequence[int]) -> None:
        """Count, by bucket, which children were accepted at the nodes that the walk visited.

        Args:
            draft: What was verified.
            values: The value of each node.
            accepted: The accepted nodes.
        """
        for child, estimate in enumerate(_estimates(draft, values)):
            if draft.parents[child] == ROOT or draft.parents[child] in accepted:
                self.buckets.note(_bucket(estimate), child in accepted)

    def expected(self, draft: Draft) -> float:
        """Tokens that a step with this draft emits, by the acceptance of ranks."""
        acceptance = self.by_rank()
        # Index 0 is the root, index 1 + i is node i.
        reached = [1.0]
        children = [0] * (1 + len(draft))
        for parent in draft.parents:
            rank = children[parent + 1]
            children[parent + 1] += 1
            reached.append(reached[parent + 1] * (acceptance[rank] if rank < RANKS else 0.0))
        return sum(reached)

    def expected_by_value(self, draft: Draft, values: Sequence[float]) -> float:
        """Tokens that a step with a dynamic tree emits, by the acceptance of buckets.

        A draft model is surer of itself than it is right. A tree that follows its estimates needs them corrected.
        """
        reached: list[float] = []
        for parent, estimate in zip(draft.parents, _estimates(draft, values), strict=True):
            reached.append((1.0 if parent == ROOT else reached[parent]) * self.buckets.of(_bucket(estimate)))
        return 1.0 + sum(reached)


def _estimates(draft: Draft, values: Sequence[float]) -> list[float]:
    """The draft model's estimate for each node alone, given that its parent was reached and accepted."""
    estimates: list[float] = []
    for value, parent in zip(values, draft.parents, strict=True):
        reached = 1.0 if parent == ROOT else values[parent]
        estimates.append(value / reached if reached else 0.0)
    return estimates


def _bucket(estimate: float) -> str:
    return str(min(int(BUCKETS * estimate), BUCKETS - 1))
