"""Plans: which shape of draft pays now, by recent acceptance of each rank and by measured forward times.

Everything here looks at the past only, so the law of what is emitted is untouched.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...core.decode import Draft
from ..shapes import Shape, sequoia
from .acceptance import FIRST, LONGEST_PAUSE, PAUSE, RANKS, REPLAN, SIZES, Planned
from .cost import CostCurve
from .payoff import MARGIN


class DraftPlan:
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
        self,
        target: CostCurve,
        own: CostCurve,
        *,
        context: int,
        leaves: int,
        nodes: int,
        start: float = 0.0,
        remaining: float = 1e9,
    ) -> None:
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
