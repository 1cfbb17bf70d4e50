"""Plans: which shape of draft pays now, by recent acceptance of each rank and by measured forward times.

Everything here looks at the past only, so the law of what is emitted is untouched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .cost import CostCurve
from .decode import ROOT, Draft
from .drafters import Drafter, forget
from .errors import ControllerError
from .speed import MARGIN, Rates
from .trees import Shape, monotone, sequoia

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


class Planned:
    """What drafters with a model share: the tree and its bounds, and what is known of acceptance and of costs.

    curves: the target's forward times and the draft model's; None = measured at first use. ledger: what drafted steps
    were expected to bring and brought. Pauses and rates outlive a run.
    """

    def __init__(
        self, *, kind: Kind, size: int, depth: int, adaptive: bool,
        curves: tuple[CostCurve, CostCurve] | None, below: Drafter | None,
    ) -> None:  # fmt: skip
        if size < 1 or depth < 1:
            raise ControllerError(f"draft size is {size} and depth {depth}; both must be at least 1")
        if below is not None and kind != "chain":
            raise ControllerError(f"a level below drafts chains; kind is {kind!r}")
        self.kind, self.size, self.depth = kind, size, depth
        self.adaptive, self.curves, self.below = adaptive, curves, below
        self.rates = Rates(dict(PRIOR), strength=10.0, fades=True)
        self.slots = Rates({str(k): (k + 0.5) / SLOTS for k in range(SLOTS)}, strength=10.0, fades=True)
        self.ledger = Ledger()
        self.pause, self.next_pause, self.rested = 0, PAUSE, False
        self.typical, self.node_seconds = TYPICAL, 0.0

    def forget(self) -> None:
        """What a level below remembers of earlier runs."""
        forget(self.below)

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


class Plan:
    """One run's plan: the shape to draft now; an empty one while drafting doesn't pay."""

    def __init__(self, drafter: Planned) -> None:
        self.d = drafter
        self.shape, self.ratio = Shape(), 1.0
        self._left, self._span = 0, FIRST
        # Another text: a long pause behind the last one says little about it.
        drafter.pause = min(drafter.pause, PAUSE)

    def due(self) -> bool:
        """Count a step; True where a new shape must be chosen."""
        if self.d.pause:
            self.d.pause -= 1
            self.shape, self._left, self._span = Shape(), 0, FIRST
            return False
        self._left -= 1
        return self._left < 0

    def choose(
        self, target: CostCurve, own: CostCurve, *, context: int, leaves: int, nodes: int, start: float = 0.0,
        remaining: float = 1e9,
    ) -> None:  # fmt: skip
        """The best shape under both curves, or a pause: twice as long each time that drafting did not pay.

        nodes: most drafted tokens. start: seconds that the draft model needs before it can draft at all; they must
        come in again over `remaining` tokens.
        """
        plain = target.now(1, context)
        self.shape, rate = self._best(target, own, context, leaves, nodes)
        self.ratio = rate * plain
        if self.ratio < MARGIN:
            self._rest(self.d.next_pause, True)
            self.d.next_pause = min(2 * self.d.next_pause, LONGEST_PAUSE)
        elif (plain - 1.0 / rate) * remaining < start:
            self._rest(PAUSE, False)  # a longer run may be worth it
        else:
            if self._span > FIRST:
                self.d.next_pause = PAUSE
            self._left, self._span = self._span - 1, min(2 * self._span, REPLAN)

    def _rest(self, steps: int, tried: bool) -> None:
        self.shape, self.d.pause, self.d.rested = Shape(), steps, tried

    def _best(self, target: CostCurve, own: CostCurve, context: int, leaves: int, nodes: int) -> tuple[Shape, float]:
        """(shape, expected tokens per second): Sequoia's choice of size and depth, with every layer's own price."""
        acceptance = self.d.acceptance()[: 1 if leaves == 1 else RANKS]
        best, rate = Shape(), 1.0 / target.now(1, context)
        prices = {n: target.now(n, context) for n in SIZES if n <= min(self.d.size, nodes) + 1}
        least = own.now(1, context)
        for depth in range(1, self.d.depth + 1):
            # The best tree of n nodes is the first n nodes of a larger one.
            shape = sequoia(acceptance, max(prices, default=1), depth + 1, leaves)
            for n, price in prices.items():
                if n > len(shape.gains) or shape.gains[n - 1] <= rate * (price + least):
                    continue
                part = shape.first(n - 1)
                # A chain stays in the draft model's cache; what is accepted of a tree is fed to it again.
                first = round(part.gain) if any(part.ranks) else 1
                found = part.gain / self.seconds(part.parents, target, own, context, first)
                if found > rate:
                    best, rate = part, found
        return best, rate

    def fed(self, parents: Sequence[int], first: int = 1) -> list[int]:
        """Rows of the draft model's forwards for a tree: all that stands before, but for chains, which stay fed.

        first: tokens behind the draft model's cache when the tree is begun.
        """
        tree = Draft(tuple(range(len(parents))), tuple(parents))
        if self.d.kind == "dyspec-greedy":
            heads: dict[int, int] = {}
            for node, parent in enumerate(parents):
                heads.setdefault(parent, node)
            drawn = sorted(heads.values())
            chain = next((i for i, parent in enumerate(parents) if parent != i - 1), len(parents))
        else:
            depths = tree.depths()
            drawn = [sum(at < layer for at in depths) for layer in range(1 + max(depths))]
            chain = next((layer for layer, n in enumerate(drawn) if n != layer), len(drawn)) - 1
        return [first, *(1 if n <= chain else 1 + n for n in drawn[1:])]

    def seconds(self, parents: Sequence[int], target: CostCurve, own: CostCurve, context: int, first: int) -> float:
        """What a step with this tree should take; first: rows of the draft model's first forward."""
        laws = sum(own.now(rows, context) for rows in self.fed(parents, first))
        return target.now(1 + len(parents), context) + laws + len(parents) * self.d.node_seconds
