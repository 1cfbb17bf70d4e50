"""How a tree of drafted tokens grows from a draft model's distributions."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any, cast

from ..core.decode import ROOT, Draft, Floats, Proposal
from .shapes import Shape

Laws = Callable[[Draft, Sequence[int]], Generator[Any, Any, Sequence[Floats]]]
"""The draft model's laws behind some nodes of a draft: may ask for forwards."""


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


def finish(growing: Growing) -> None:
    """Run a growth whose laws need no forwards."""
    for _ in cast(Iterable[Any], growing):
        raise RuntimeError("this growth asks for forwards")
