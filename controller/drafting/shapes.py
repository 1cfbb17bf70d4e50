"""Shapes of drafted trees: Sequoia's static tree, DySpec's dynamic one, tries of chains, and how a tree is drawn.

This file decides which node gets a child. The drafter gives the distributions.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ..core.decode import ROOT, Draft, Floats


@dataclass(frozen=True)
class Shape:
    """A tree without tokens; every node stands after its parent."""

    parents: tuple[int, ...] = ()
    """The node above each node, or ROOT."""
    ranks: tuple[int, ...] = ()
    """Which child of its parent each node is, from 0."""
    gains: tuple[float, ...] = (1.0,)
    """Expected emitted tokens of the first i nodes, for every i from 0; the root's own token is counted."""

    @property
    def gain(self) -> float:
        """Expected emitted tokens."""
        return self.gains[-1]

    def first(self, n: int) -> Shape:
        """Its first n nodes."""
        return Shape(self.parents[:n], self.ranks[:n], self.gains[: n + 1])

    def above(self, depth: int) -> Shape:
        """Its first `depth` drafted layers, without their gain."""
        depths = self._depths()
        if 1 + max(depths, default=-1) <= depth:
            return self
        nodes = [node for node, at in enumerate(depths) if at < depth]
        place = {node: i for i, node in enumerate(nodes)} | {ROOT: ROOT}
        return Shape(
            tuple(place[self.parents[node]] for node in nodes),
            tuple(self.ranks[node] for node in nodes),
        )

    def depth(self) -> int:
        """Drafted layers."""
        return 1 + max(self._depths(), default=-1)

    def least_slot(self, acceptance: Sequence[float]) -> float:
        """The smallest chance of a node to be reached and tested. Below it the tree was not worth growing.

        Args:
            acceptance: Acceptance by rank.
        """
        # Index 0 is the root, index 1 + i is node i.
        reached = [1.0]
        least = 1.0
        for parent, rank in zip(self.parents, self.ranks, strict=True):
            least = min(least, reached[parent + 1] * (1.0 - sum(acceptance[:rank])))
            reached.append(reached[parent + 1] * acceptance[rank])
        return least

    def _depths(self) -> tuple[int, ...]:
        return Draft(tuple(range(len(self.parents))), self.parents).depths()


def sequoia_gains(acceptance: Sequence[float], nodes: int, layers: int) -> Floats:
    """The best expected emitted tokens by number of nodes and of layers: Sequoia's dynamic programme.

    Chen et al. 2024 (Sequoia), for any acceptance vector. Nodes and layers count the root.

    Args:
        acceptance: The probability, by rank, that a child of an accepted node is the accepted one.
        nodes: Most nodes.
        layers: Most layers.

    Returns:
        Shape (nodes + 1, layers + 1): for exactly n nodes and at most d layers; -inf where there is no such tree.
    """
    gains = np.full((nodes + 1, layers + 1), -np.inf)
    gains[1, 1:] = 1.0
    # with_children[b][n, d]: the root has exactly b children.
    with_children = [gains.copy()]
    with_children += [np.full_like(gains, -np.inf) for _ in acceptance]
    for n in range(2, nodes + 1):
        for d in range(2, layers + 1):
            for b, p in enumerate(acceptance, start=1):
                # The last child's subtree has some of the nodes; the root and its other subtrees have the rest.
                rest = with_children[b - 1][1:n, d] + p * gains[n - 1 : 0 : -1, d - 1]
                with_children[b][n, d] = rest.max()
            gains[n, d] = max(table[n, d] for table in with_children)
    return gains


@dataclass
class _Block:
    """Neighbouring values that share one value."""

    value: float
    """Their weighted mean."""
    weight: float
    """The sum of their weights."""
    count: int
    """How many there are."""


def monotone(values: Sequence[float], weights: Sequence[float]) -> list[float]:
    """The closest non-increasing values, by weighted least squares: pool adjacent violators."""
    blocks: list[_Block] = []
    for value, weight in zip(values, weights, strict=True):
        blocks.append(_Block(value, weight, 1))
        while len(blocks) > 1 and blocks[-2].value < blocks[-1].value:
            last = blocks.pop()
            before = blocks[-1]
            weight_of_both = before.weight + last.weight
            before.value = (before.value * before.weight + last.value * last.weight) / weight_of_both
            before.weight = weight_of_both
            before.count += last.count
    return [block.value for block in blocks for _ in range(block.count)]


def sequoia(acceptance: Sequence[float], nodes: int, layers: int, leaves: int = 1 << 30) -> Shape:
    """The tree with most expected emitted tokens.

    Where `acceptance` doesn't increase, the chance of a node falls from parent to child and from sibling to sibling.
    The best tree is then the nodes of largest chance, and no table is needed.

    Args:
        acceptance: Acceptance by rank.
        nodes: Nodes, the root included; the tree has fewer where the other limits leave no more.
        layers: Most layers, the root's included.
        leaves: Most leaves.

    Raises:
        ValueError: The acceptance increases somewhere.
    """
    if any(after > before for before, after in zip(acceptance, acceptance[1:], strict=False)):
        raise ValueError("sequoia needs a non-increasing acceptance vector; smooth it with monotone()")
    # (minus the chance of the node, order of its making, parent, rank, layer)
    heap = [(-acceptance[0], 0, ROOT, 0, 1)] if acceptance and layers > 1 and acceptance[0] > 0 else []
    parents: list[int] = []
    ranks: list[int] = []
    gains = [1.0]
    order, ends = 1, 1
    while heap and len(parents) + 1 < nodes:
        value, _, parent, rank, layer = heapq.heappop(heap)
        if rank > 0:
            if ends == leaves:
                continue
            ends += 1
        node = len(parents)
        gains.append(gains[-1] - value)
        parents.append(parent)
        ranks.append(rank)
        if layer + 1 < layers:
            heapq.heappush(heap, (value * acceptance[0], order, node, 0, layer + 1))
        if rank + 1 < len(acceptance) and acceptance[rank + 1] > 0:
            sibling = value / acceptance[rank] * acceptance[rank + 1]
            heapq.heappush(heap, (sibling, order + 1, parent, rank + 1, layer))
        order += 2
    return Shape(tuple(parents), tuple(ranks), tuple(gains))


def best_shape(
    acceptance: Sequence[float],
    seconds: Callable[[int], float],
    layer_seconds: float,
    *,
    sizes: Iterable[int],
    layers: int,
    leaves: int = 1 << 30,
) -> tuple[Shape, float]:
    """(shape, expected tokens per second) of the best tree under a cost model: Sequoia's hardware-aware choice.

    Args:
        acceptance: Acceptance by rank.
        seconds: The target's time for a number of rows.
        layer_seconds: The draft model's time for a layer, the root's included.
        sizes: Numbers of rows to choose from.
        layers: Most layers, the root's included.
        leaves: Most leaves.
    """
    prices = {size: seconds(size) for size in sizes}
    best = Shape()
    best_rate = 1.0 / seconds(1)
    for depth in range(2, layers + 1):
        # The best tree of n nodes is the first n nodes of a larger one.
        shape = sequoia(acceptance, max(prices), depth, leaves)
        for size, price in prices.items():
            if size <= len(shape.gains):
                rate = shape.gains[size - 1] / (price + depth * layer_seconds)
                if rate > best_rate:
                    best = shape.first(size - 1)
                    best_rate = rate
    return best, best_rate


def trie(chains: Iterable[Sequence[int]]) -> Draft:
    """The chains, with common beginnings merged.

    >>> trie([(5, 6), (5, 7), (8,)])
    Draft(tokens=(5, 6, 7, 8), parents=(-1, 0, 0, -1), proposals={})
    """
    found: dict[tuple[int, int], int] = {}
    for chain in chains:
        node = ROOT
        for token in chain:
            node = found.setdefault((node, token), len(found))
    return Draft(tuple(token for _, token in found), tuple(parent for parent, _ in found))
