"""Plans: which shape of draft pays now, by recent acceptance of each rank and by measured forward times.

Everything here depends on the past only, so the distribution of what is emitted is untouched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ...core.decode import UNLIMITED, Draft
from ...core.errors import ControllerError
from ..shapes import Shape, sequoia
from .experience import Experience
from .meter import CurvePair, Prices
from .payoff import MARGIN

Kind = Literal["chain", "sequoia", "dyspec", "dyspec-greedy"]
"""How drafts branch: not at all, as Sequoia's static tree, or as DySpec's dynamic tree, by layers or by nodes."""
SIZES = (2, 3, 4, 5, 6, 8, 12, 16, 24, 32)
"""Rows of the target's forward that a plan may choose, the root's included."""
FIRST_INTERVAL = 4
"""Steps between the first two plans of a run, and between two plans after a pause; it doubles with each plan."""
LONGEST_INTERVAL = 16
"""Steps between two plans, at most."""


@dataclass(frozen=True)
class DraftSettings:
    """What a user sets for a drafter with a model."""

    kind: Kind
    """How drafts branch."""
    size: int
    """Most drafted tokens a step."""
    depth: int
    """Most drafted tokens on a path."""
    adaptive: bool
    """Whether size, depth and branching are planned; False drafts one shape of `size` tokens always."""
    curves: CurvePair | None
    """What forwards cost; None = measured at first use."""

    def __post_init__(self) -> None:
        if self.size < 1 or self.depth < 1:
            raise ControllerError(f"draft size is {self.size} and depth {self.depth}; both must be at least 1")

    @property
    def dynamic(self) -> bool:
        """Whether the tree follows the draft model's own estimates."""
        return self.kind in ("dyspec", "dyspec-greedy")


class DraftPlan:
    """One run's plan: the shape to draft now, which is empty while drafting doesn't pay."""

    def __init__(self, settings: DraftSettings, experience: Experience) -> None:
        self.settings = settings
        self.experience = experience
        self.shape = Shape()
        self.ratio = 1.0
        """Expected tokens per second of the last plan, over those of plain decoding."""
        self._steps_left = 0
        self._interval = FIRST_INTERVAL
        experience.pauses.begin_run()

    def due(self) -> bool:
        """Count a step; True where a new shape must be chosen."""
        pauses = self.experience.pauses
        if pauses.left:
            pauses.left -= 1
            self.shape = Shape()
            self._steps_left = 0
            self._interval = FIRST_INTERVAL
            return False
        self._steps_left -= 1
        return self._steps_left < 0

    def choose(
        self,
        curves: Prices,
        *,
        context: int,
        leaves: int,
        nodes: int,
        start: float = 0.0,
        remaining: float = 1e9,
    ) -> None:
        """Choose the shape that pays best, or a pause where none pays.

        Args:
            curves: What forwards of both models cost.
            context: Tokens in the target's cache.
            leaves: Most leaves of a tree.
            nodes: Most drafted tokens.
            start: Seconds that the draft model needs before it can draft at all.
            remaining: Tokens to come, over which `start` must be earned back.
        """
        plain = curves.target.now(1, context)
        self.shape, rate = self._best(curves, context, leaves, nodes)
        self.ratio = rate * plain
        pauses = self.experience.pauses
        if self.ratio < MARGIN:
            self.shape = Shape()
            pauses.failed()
        elif (plain - 1.0 / rate) * remaining < start:
            self.shape = Shape()
            pauses.postpone()
        else:
            if self._interval > FIRST_INTERVAL:
                pauses.paid()
            self._steps_left = self._interval - 1
            self._interval = min(2 * self._interval, LONGEST_INTERVAL)

    def pays_without(self, curves: Prices, context: int, nodes: int) -> bool:
        """Whether a chain would pay if nothing were fed again after a rejection."""
        target = replace(curves.target, cuts=UNLIMITED)
        _, rate = self._best(curves._replace(target=target), context, 1, nodes)
        return rate * target.now(1, context) >= MARGIN

    def _best(self, curves: Prices, context: int, leaves: int, nodes: int) -> tuple[Shape, float]:
        """(shape, expected tokens per second): Sequoia's choice of size and depth, with every layer's own price."""
        acceptance = self.experience.acceptance.by_rank()
        if leaves == 1:
            acceptance = acceptance[:1]
        most = min(self.settings.size, nodes) + 1
        prices = {rows: curves.target.now(rows, context) for rows in SIZES if rows <= most}
        cheapest_draft = curves.draft.now(1, context)
        best = Shape()
        best_rate = 1.0 / curves.target.now(1, context)
        for depth in range(1, self.settings.depth + 1):
            # The best tree of n nodes is the first n nodes of a larger one.
            shape = sequoia(acceptance, max(prices, default=1), depth + 1, leaves)
            for rows, price in prices.items():
                if rows > len(shape.gains) or shape.gains[rows - 1] <= best_rate * (price + cheapest_draft):
                    continue
                part = shape.first(rows - 1)
                # A chain stays in the draft model's cache; what is accepted of a tree is fed to it again.
                first_rows = round(part.gain) if any(part.ranks) else 1
                rate = part.gain / self.seconds(part.parents, curves, context, first_rows)
                if rate > best_rate:
                    best = part
                    best_rate = rate
        return best, best_rate

    def seconds(self, parents: Sequence[int], curves: Prices, context: int, first_rows: int) -> float:
        """What a step with this tree should take, on both sides.

        Args:
            parents: The tree.
            curves: What forwards of both models cost.
            context: Tokens in the target's cache.
            first_rows: Rows of the draft model's first forward.
        """
        drafting = sum(curves.draft.now(rows, context) for rows in self.draft_rows(parents, first_rows))
        own_work = len(parents) * self.experience.node_seconds
        # Where rejected tokens are fed again, drafts are chains: each node is accepted as often as the one before it.
        chance = self.experience.acceptance.by_rank()[0]
        reached = [chance ** (depth + 1) for depth in range(len(parents))]
        verifying = curves.target.drafted(len(parents), context, accepted=sum(reached), whole=reached[-1])
        return verifying + drafting + own_work

    def draft_rows(self, parents: Sequence[int], first_rows: int = 1) -> list[int]:
        """Rows of each forward that the draft model makes for a tree.

        A chain grows in the draft model's cache, one row a forward. Once the tree has branched, every forward is fed
        the last token and the whole tree so far.

        Args:
            parents: The tree, not empty.
            first_rows: Rows of the first forward: the tokens that the draft model was not fed before.
        """
        drawn, chain = self._drawn_by_node(parents) if self.settings.kind == "dyspec-greedy" else _by_layer(parents)
        rows = [first_rows]
        for nodes in drawn[1:]:
            rows.append(1 if nodes <= chain else 1 + nodes)
        return rows

    @staticmethod
    def _drawn_by_node(parents: Sequence[int]) -> tuple[list[int], int]:
        """(nodes drawn before each forward, nodes of the chain that the tree begins with): a forward for each parent.

        The forward for a parent comes before its first child, whose number is how many nodes were drawn before.
        """
        first_children: dict[int, int] = {}
        for node, parent in enumerate(parents):
            first_children.setdefault(parent, node)
        chain = len(parents)
        for node, parent in enumerate(parents):
            if parent != node - 1:
                chain = node
                break
        return sorted(first_children.values()), chain


def _by_layer(parents: Sequence[int]) -> tuple[list[int], int]:
    """(nodes drawn before each forward, nodes of the chain that the tree begins with): a forward for each layer."""
    depths = Draft(tuple(range(len(parents))), tuple(parents)).depths()
    drawn = [sum(depth < layer for depth in depths) for layer in range(1 + max(depths))]
    chain = len(drawn) - 1
    for layer, nodes in enumerate(drawn):
        if nodes != layer:
            chain = layer - 1
            break
    return drawn, chain
