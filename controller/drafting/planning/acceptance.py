"""What is known of how often drafted tokens are accepted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from ...core.decode import ROOT, Draft
from ...core.errors import ControllerError
from ..drafter import Drafter
from ..shapes import monotone
from .cost import CostCurve

Kind = Literal["chain", "sequoia", "dyspec", "dyspec-greedy"]
SIZES = (2, 3, 4, 5, 6, 8, 12, 16, 24, 32)
RANKS = 4
SLOTS = 10
"""Values of slots that are judged apart."""
FIRST, REPLAN = 4, 16
"""Steps between two plans: after a pause or at a run's begin, and at most; twice as many each time."""
PAUSE, LONGEST_PAUSE = 64, 1024
"""Plain steps before drafting that did not pay is tried again, at first and at most."""
PRIOR = {"0": 0.7, "1": 0.12, "2": 0.05, "3": 0.02}
TYPICAL = 128.0
"""Tokens that a run is expected to have, before any was seen."""


@dataclass
class Ledger:
    """Drafted steps of all runs: what the plan's model of them expected, and what they brought.

    Expected tokens: from acceptance by rank so far, or by slot value in a dynamic tree; expected seconds: from both
    curves and the drafter's own work. Seconds are of steps whose forwards nobody shared.
    """

    steps: int = 0
    expected_emitted: float = 0.0
    emitted: int = 0
    timed: int = 0
    expected_seconds: float = 0.0
    seconds: float = 0.0

    def enter(self, expected: float, emitted: int, expected_seconds: float | None, seconds: float | None) -> None:
        """One step."""
        self.steps += 1
        self.expected_emitted += expected
        self.emitted += emitted
        if expected_seconds is not None and seconds is not None:
            self.timed += 1
            self.expected_seconds += expected_seconds
            self.seconds += seconds


class Planned(Drafter):
    """What drafters with a model share: the tree and its bounds, and what is known of acceptance and of costs.

    curves: the target's forward times and the draft model's; None = measured at first use. ledger: what drafted steps
    were expected to bring and brought. Pauses and rates outlive a run.
    """

    def __init__(
        self,
        *,
        kind: Kind,
        size: int,
        depth: int,
        adaptive: bool,
        curves: tuple[CostCurve, CostCurve] | None,
        inner: Drafter | None,
    ) -> None:
        if size < 1 or depth < 1:
            raise ControllerError(f"draft size is {size} and depth {depth}; both must be at least 1")
        if inner is not None and kind != "chain":
            raise ControllerError(f"an inner drafter drafts chains; kind is {kind!r}")
        self.kind, self.size, self.depth = kind, size, depth
        self.adaptive, self.curves, self.inner = adaptive, curves, inner
        self.rates = AcceptanceRates(dict(PRIOR), strength=10.0, fades=True)
        self.slots = AcceptanceRates({str(k): (k + 0.5) / SLOTS for k in range(SLOTS)}, strength=10.0, fades=True)
        self.ledger = Ledger()
        self.pause, self.next_pause, self.rested = 0, PAUSE, False
        self.typical, self.node_seconds = TYPICAL, 0.0

    def forget(self) -> None:
        """What an inner drafter remembers of earlier runs."""
        if self.inner is not None:
            self.inner.forget()

    def acceptance(self) -> tuple[float, ...]:
        """Of each rank, non-increasing, with a sum below 1: a later rank has at most what earlier ones leave."""
        ranks = [str(k) for k in range(RANKS)]
        left, out = 0.999, []
        for rate in monotone([self.rates.of(k) for k in ranks], [self.rates.weight(k) for k in ranks]):
            out.append(min(rate, left))
            left -= out[-1]
        return tuple(out)

    def note_ranks(self, found: int | None, ranks: int = RANKS) -> None:
        """Child number `found` of `ranks` was the emitted token; None = none of them."""
        for rank in range(ranks):
            self.rates.note(str(rank), rank == found)

    def note_work(self, seconds: float, nodes: int) -> None:
        """The drafter's own work on so many nodes, forwards left out."""
        self.node_seconds += 0.1 * (seconds / nodes - self.node_seconds)

    def note_length(self, tokens: int) -> None:
        """A run had so many tokens."""
        self.typical += 0.2 * (tokens - self.typical)

    def expected(self, draft: Draft) -> float:
        """Tokens that a step with this draft emits, by acceptance of ranks."""
        acceptance, values, children = self.acceptance(), [1.0], [0] * (1 + len(draft))
        for parent in draft.parents:
            rank = children[parent + 1]
            children[parent + 1] += 1
            values.append(values[parent + 1] * (acceptance[rank] if rank < RANKS else 0.0))
        return sum(values)

    def note_slots(self, draft: Draft, slots: Sequence[float], accepted: Sequence[int]) -> None:
        """Which children were accepted at the nodes of a dynamic tree that the walk visited; slots: values in it."""
        for child, share in enumerate(_edges(draft, slots)):
            if draft.parents[child] == ROOT or draft.parents[child] in accepted:
                self.slots.note(_bucket(share), child in accepted)

    def expected_of(self, draft: Draft, slots: Sequence[float]) -> float:
        """Tokens that a step with a dynamic tree emits, by what children of such values brought so far.

        A draft model is surer of itself than it is right; a tree that follows its sureness needs that corrected.
        """
        values: list[float] = []
        for parent, share in zip(draft.parents, _edges(draft, slots), strict=True):
            values.append((1.0 if parent == ROOT else values[parent]) * self.slots.of(_bucket(share)))
        return 1.0 + sum(values)


def _edges(draft: Draft, slots: Sequence[float]) -> list[float]:
    """Each node's chance given that its parent was reached and accepted, by the draft model."""
    before = (1.0 if parent == ROOT else slots[parent] for parent in draft.parents)
    return [value / chance if chance else 0.0 for value, chance in zip(slots, before, strict=True)]


def _bucket(share: float) -> str:
    """Shares that are judged together."""
    return str(min(int(SLOTS * share), SLOTS - 1))


FORGET = 0.98
"""Weight of the past at each new outcome: about fifty outcomes are remembered."""


@dataclass
class AcceptanceRates:
    """Success rates by kind, with exponential forgetting and a prior worth `strength` outcomes.

    fades: the prior is forgotten too. Of many kinds that are seen now and then the most promising one is often just a
    lucky one, and a prior that stays is what holds it down; of a few that are seen all the time it is only in the way.

    >>> rates = AcceptanceRates({"long": 0.9}); rates.note("long", False); round(rates.of("long"), 3)
    0.75
    """

    prior: dict[str, float]
    strength: float = 5.0
    default: float = 0.1
    fades: bool = False
    _seen: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    """Successes, outcomes, and how many outcomes the prior is worth now."""

    def note(self, kind: str, hit: bool) -> None:
        """One outcome."""
        hits, n, strength = self._known(kind)
        self._seen[kind] = FORGET * hits + hit, FORGET * n + 1.0, strength * (FORGET if self.fades else 1.0)

    def relax(self) -> None:
        """Half of what was seen is forgotten: for what could not be watched for a while."""
        self._seen = {
            kind: (hits / 2, n / 2, (strength + self.strength) / 2) for kind, (hits, n, strength) in self._seen.items()
        }

    def of(self, kind: str) -> float:
        """The current estimate."""
        hits, n, strength = self._known(kind)
        return (hits + strength * self.prior.get(kind, self.default)) / (n + strength)

    def weight(self, kind: str) -> float:
        """Outcomes behind the estimate, the prior's among them."""
        _, n, strength = self._known(kind)
        return n + strength

    def _known(self, kind: str) -> tuple[float, float, float]:
        return self._seen.get(kind, (0.0, 0.0, self.strength))
