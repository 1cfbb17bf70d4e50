"""Shapes of drafted trees: Sequoia's static tree, DySpec's dynamic one, tries of chains, and how a tree is drawn.

Owns which node gets a child; where a node's law comes from is the drafter's business.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from .decode import ROOT, Draft, Floats, Proposal

Laws = Callable[[Draft, Sequence[int]], Generator[Any, Any, Sequence[Floats]]]
"""The draft model's laws behind some nodes of a draft: may ask for forwards."""


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
    acceptance: Sequence[float], seconds: Callable[[int], float], layer_seconds: float, *,
    sizes: Iterable[int], layers: int, leaves: int = 1 << 30,
) -> tuple[Shape, float]:  # fmt: skip
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


class Growth:
    """A tree while it is drawn, without replacement. choose: an index drawn from weights; None = the largest.

    values[i]: the draft model's own chance that node i is reached and accepted.
    """

    def __init__(self, choose: Callable[[Floats], int] | None) -> None:
        self.choose = choose
        self.tokens: list[int] = []
        self.parents: list[int] = []
        self._laws: dict[int, Floats] = {}
        self.values: list[float] = []
        self._left: dict[int, Floats] = {}
        self._slots: dict[int, float] = {}
        self._draws: dict[int, list[int]] = {}

    def __len__(self) -> int:
        return len(self.tokens)

    def knows(self, node: int) -> bool:
        """Whether the law behind `node` was given."""
        return node in self._laws

    def give(self, node: int, law: Floats) -> None:
        """The law behind `node`; shape (vocabulary,), sums to 1."""
        self._laws[node] = self._left[node] = law
        self._draws[node] = []
        self._slots[node] = 1.0 if node == ROOT else self.values[node]

    def exhausted(self, node: int) -> bool:
        """Nothing is left to draw behind `node`."""
        return not self._left[node].any()

    def children(self, node: int) -> int:
        """Number of children of `node`."""
        return len(self._draws.get(node, ()))

    def draw(self, parent: int) -> tuple[int, float]:
        """(a new child of `parent`, its probability in this draw)."""
        left = self._left[parent]
        token = int(left.argmax()) if self.choose is None else self.choose(left)
        probability = float(left[token])
        left = left.copy()
        left[token] = 0.0
        mass = left.sum()
        self._left[parent] = left / mass if mass > 0.0 else left
        self._draws[parent].append(token)
        self.values.append(self._slots[parent] * probability)
        self._slots[parent] *= 1.0 - probability
        self.tokens.append(token)
        self.parents.append(parent)
        return len(self.tokens) - 1, probability

    def draft(self) -> Draft:
        """What was drawn so far. Largest-first choices are no draws: they carry no proposal."""
        proposals = {}
        if self.choose is not None:
            proposals = {n: Proposal(self._laws[n], tuple(draws)) for n, draws in self._draws.items() if draws}
        return Draft(tuple(self.tokens), tuple(self.parents), proposals)


Growing = Generator[Any, Any, None]


def draw_shape(growth: Growth, laws: Laws, shape: Shape) -> Growing:
    """Fill a static shape, one layer per forward of the draft model."""
    nodes = {ROOT: ROOT}
    layer = [ROOT]
    while layer:
        inner = [node for node in layer if node in shape.parents]
        if not inner:
            return
        given = yield from laws(growth.draft(), [nodes[node] for node in inner])
        below = []
        for node, law in zip(inner, given, strict=True):
            growth.give(nodes[node], law)
            for child in (i for i, parent in enumerate(shape.parents) if parent == node):
                if growth.exhausted(nodes[node]):
                    break
                nodes[child], _ = growth.draw(nodes[node])
                below.append(child)
        layer = below


def draw_greedy(growth: Growth, laws: Laws, *, nodes: int, layers: int, leaves: int = 1 << 30) -> Growing:
    """DySpec, fixed size: always draw where the chance that the draw is tested and reached is largest.

    A slot's value is known before its token is drawn. A law is asked for when its first slot comes up: at most one
    forward of the draft model per node. `nodes` are drafted nodes; `layers` drafted layers.
    """
    heap: list[tuple[float, int, int, int]] = [(-1.0, 0, ROOT, 0)]
    order, ends = 1, 1
    while heap and len(growth) < nodes:
        value, _, node, depth = heapq.heappop(heap)
        sibling = growth.children(node) > 0
        if sibling and ends == leaves:
            continue
        ends += sibling
        if not growth.knows(node):
            (law,) = yield from laws(growth.draft(), [node])
            growth.give(node, law)
        child, probability = growth.draw(node)
        if not growth.exhausted(node) and probability < 1.0:
            heapq.heappush(heap, (value * (1.0 - probability), order, node, depth))
        if depth + 1 < layers:
            heapq.heappush(heap, (value * probability, order + 1, child, depth + 1))
        order += 2


def draw_threshold(
    growth: Growth, laws: Laws, *, threshold: float, nodes: int, layers: int, leaves: int = 1 << 30
) -> Growing:
    """DySpec, threshold form: every slot worth `threshold` is drawn, one forward of the draft model per layer."""
    least, ends = threshold - 1e-12, 1
    layer = [(ROOT, 1.0)]
    for _ in range(layers):
        if not layer or len(growth) >= nodes:
            return
        given = yield from laws(growth.draft(), [node for node, _ in layer])
        below = []
        for (node, value), law in zip(layer, given, strict=True):
            growth.give(node, law)
            while value >= least and len(growth) < nodes and not growth.exhausted(node):
                sibling = growth.children(node) > 0
                if sibling and ends == leaves:
                    break
                ends += sibling
                child, probability = growth.draw(node)
                below.append((child, value * probability))
                value *= 1.0 - probability
        layer = [(node, value) for node, value in below if value >= least]


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


def finish(growing: Growing) -> None:
    """Run a growth whose laws need no forwards."""
    for _ in cast(Iterable[Any], growing):
        raise RuntimeError("this growth asks for forwards")
