"""Shapes of drafted trees: Sequoia's static tree, DySpec's dynamic one, tries of chains, and how a tree is drawn.

Owns which node gets a child; where a node's law comes from is the drafter's business.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.decode import ROOT, Draft


@dataclass(frozen=True)
class Shape:
    """A tree without tokens: node i hangs below `parents[i]` (or ROOT) as its child number `ranks[i]`, from 0.

    gains[i]: expected number of emitted tokens of the first i nodes, the root's own token included.
    """

    parents: tuple[int, ...] = ()
    ranks: tuple[int, ...] = ()
    gains: tuple[float, ...] = (1.0,)

    @property
    def gain(self) -> float:
        """Expected number of emitted tokens."""
        return self.gains[-1]

    def first(self, n: int) -> Shape:
        """Its first n nodes: parents stand before their children."""
        return Shape(self.parents[:n], self.ranks[:n], self.gains[: n + 1])

    def above(self, depth: int) -> Shape:
        """Its first `depth` drafted layers; their gain is not worked out."""
        if self.depth() <= depth:
            return self
        deep = Draft(tuple(range(len(self.parents))), self.parents).depths()
        kept = [i for i, at in enumerate(deep) if at < depth]
        place = {node: i for i, node in enumerate(kept)} | {ROOT: ROOT}
        return Shape(tuple(place[self.parents[i]] for i in kept), tuple(self.ranks[i] for i in kept))

    def least_slot(self, acceptance: Sequence[float]) -> float:
        """Of its places, the smallest chance to be reached and tested: where growing it stopped paying."""
        values, least = [1.0], 1.0
        for parent, rank in zip(self.parents, self.ranks, strict=True):
            least = min(least, values[parent + 1] * (1.0 - sum(acceptance[:rank])))
            values.append(values[parent + 1] * acceptance[rank])
        return least

    def depth(self) -> int:
        """Drafted layers."""
        depths = Draft(tuple(range(len(self.parents))), self.parents).depths()
        return 1 + max(depths, default=-1)


def sequoia_gains(acceptance: Sequence[float], nodes: int, layers: int) -> Any:
    """Shape (nodes + 1, layers + 1): best expected emitted tokens of a tree of exactly n nodes and at most d layers.

    acceptance[k]: probability that child number k of an accepted node is the accepted one. Nodes and layers count the
    root; -inf where there is no such tree. The dynamic programme of Sequoia, for any acceptance vector.
    """
    gains = np.full((nodes + 1, layers + 1), -np.inf)
    gains[1, 1:] = 1.0
    # with[b][n, d]: the root has exactly b children; y nodes are its own and those of its first b - 1 subtrees.
    with_children = [gains.copy()]
    with_children += [np.full_like(gains, -np.inf) for _ in acceptance]
    for n in range(2, nodes + 1):
        for d in range(2, layers + 1):
            for b, p in enumerate(acceptance, start=1):
                rest = with_children[b - 1][1:n, d] + p * gains[n - 1 : 0 : -1, d - 1]
                with_children[b][n, d] = rest.max()
            gains[n, d] = max(table[n, d] for table in with_children)
    return gains


def monotone(values: Sequence[float], weights: Sequence[float]) -> list[float]:
    """The closest non-increasing values (weighted least squares: pool adjacent violators)."""
    blocks: list[tuple[float, float, int]] = []
    for value, weight in zip(values, weights, strict=True):
        blocks.append((value, weight, 1))
        while len(blocks) > 1 and blocks[-2][0] < blocks[-1][0]:
            (a, wa, na), (b, wb, nb) = blocks[-2:]
            blocks[-2:] = [((a * wa + b * wb) / (wa + wb), wa + wb, na + nb)]
    return [value for value, _, count in blocks for _ in range(count)]


def sequoia(acceptance: Sequence[float], nodes: int, layers: int, leaves: int = 1 << 30) -> Shape:
    """The tree of `nodes` (root included) and at most `layers` with most expected emitted tokens.

    For a non-increasing `acceptance`: a node's value then falls from parent to child and from sibling to sibling, so
    the best tree is the nodes of largest value, without a table. Fewer nodes where the limits leave no more.
    """
    if any(b > a for a, b in zip(acceptance, acceptance[1:], strict=False)):
        raise ValueError("sequoia needs a non-increasing acceptance vector; smooth it with monotone()")
    heap = [(-acceptance[0], 0, ROOT, 0, 1)] if acceptance and layers > 1 and acceptance[0] > 0 else []
    parents: list[int] = []
    ranks: list[int] = []
    gains, order, ends = [1.0], 1, 1
    while heap and len(parents) + 1 < nodes:
        value, _, parent, rank, depth = heapq.heappop(heap)
        if rank and ends == leaves:
            continue
        ends += rank > 0
        node = len(parents)
        gains.append(gains[-1] - value)
        parents.append(parent)
        ranks.append(rank)
        if depth + 1 < layers:
            heapq.heappush(heap, (value * acceptance[0], order, node, 0, depth + 1))
        if rank + 1 < len(acceptance) and acceptance[rank + 1] > 0:
            sibling = value / acceptance[rank] * acceptance[rank + 1]
            heapq.heappush(heap, (sibling, order + 1, parent, rank + 1, depth))
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
    """(shape, expected tokens per second) of the best tree under a cost model; Sequoia's hardware-aware choice.

    seconds(n): the target's time for n rows. layer_seconds: the draft model's time for a layer, the root's included.
    """
    best, rate, prices = Shape(), 1.0 / seconds(1), {size: seconds(size) for size in sizes}
    for depth in range(2, layers + 1):
        # The best tree of n nodes is the first n nodes of a larger one.
        shape = sequoia(acceptance, max(prices), depth, leaves)
        for size, price in prices.items():
            if size <= len(shape.gains):
                found = shape.gains[size - 1] / (price + depth * layer_seconds)
                if found > rate:
                    best, rate = shape.first(size - 1), found
    return best, rate


def trie(chains: Iterable[Sequence[int]]) -> Draft:
    """The chains with what they share merged.

    >>> trie([(5, 6), (5, 7), (8,)])
    Draft(tokens=(5, 6, 7, 8), parents=(-1, 0, 0, -1), proposals={})
    """
    found: dict[tuple[int, int], int] = {}
    for chain in chains:
        node = ROOT
        for token in chain:
            node = found.setdefault((node, token), len(found))
    return Draft(tuple(token for _, token in found), tuple(parent for parent, _ in found))
