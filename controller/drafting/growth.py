"""How a tree of drafted tokens grows from a draft model's distributions."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

from ..core.decode import ROOT, Asking, Draft, Floats, Proposal
from .shapes import Shape

ProbsAfter = Callable[[Draft, Sequence[int]], Asking[Sequence[Floats]]]
"""Gives the draft model's distributions after some nodes of a draft; may ask for forwards."""


class Growth:
    """A tree while it is drawn, without replacement.

    Args:
        choose: Draws an index from weights; None takes the largest.
    """

    def __init__(self, choose: Callable[[Floats], int] | None) -> None:
        self.choose = choose
        self.tokens: list[int] = []
        """The token of each node."""
        self.parents: list[int] = []
        """The node before each node, or ROOT."""
        self.values: list[float] = []
        """The draft model's own estimate that each node is reached and accepted."""
        self._probs: dict[int, Floats] = {}
        self._left: dict[int, Floats] = {}
        """What the next child of a node is drawn from: its distribution without the children drawn so far."""
        self._next_values: dict[int, float] = {}
        """The estimate that a node is reached and that none of its children so far is accepted."""
        self._draws: dict[int, list[int]] = {}

    def __len__(self) -> int:
        return len(self.tokens)

    def knows(self, node: int) -> bool:
        """Whether the distribution after `node` is known."""
        return node in self._probs

    def give(self, node: int, probs: Floats) -> None:
        """Set the distribution after `node`; shape (vocabulary,), sums to 1."""
        self._probs[node] = probs
        self._left[node] = probs
        self._draws[node] = []
        self._next_values[node] = 1.0 if node == ROOT else self.values[node]

    def exhausted(self, node: int) -> bool:
        """Whether nothing is left to draw after `node`."""
        return not self._left[node].any()

    def children(self, node: int) -> int:
        """Number of children of `node`."""
        return len(self._draws.get(node, ()))

    def draw(self, parent: int) -> tuple[int, float]:
        """Draw a new child of `parent`.

        Returns:
            The child, and its probability in this draw.
        """
        left = self._left[parent]
        token = int(left.argmax()) if self.choose is None else self.choose(left)
        probability = float(left[token])
        left = left.copy()
        left[token] = 0.0
        mass = left.sum()
        self._left[parent] = left / mass if mass > 0.0 else left
        self._draws[parent].append(token)
        self.values.append(self._next_values[parent] * probability)
        self._next_values[parent] *= 1.0 - probability
        self.tokens.append(token)
        self.parents.append(parent)
        return len(self.tokens) - 1, probability

    def draft(self) -> Draft:
        """The tree so far. Its nodes carry a proposal where tokens were drawn; the largest tokens need none."""
        proposals = {}
        if self.choose is not None:
            proposals = {n: Proposal(self._probs[n], tuple(draws)) for n, draws in self._draws.items() if draws}
        return Draft(tuple(self.tokens), tuple(self.parents), proposals)


def draw_shape(growth: Growth, probs_after: ProbsAfter, shape: Shape) -> Asking[None]:
    """Draw the tokens of a static shape, one layer per forward of the draft model.

    Args:
        growth: The tree to grow.
        probs_after: Gives the draft model's distributions.
        shape: Which nodes have children, and how many.
    """
    # The grown node of each place of the shape.
    nodes = {ROOT: ROOT}
    layer = [ROOT]
    while layer:
        inner = [place for place in layer if place in shape.parents]
        if not inner:
            return
        given = yield from probs_after(growth.draft(), [nodes[place] for place in inner])
        next_layer = []
        for place, probs in zip(inner, given, strict=True):
            node = nodes[place]
            growth.give(node, probs)
            for child in (i for i, parent in enumerate(shape.parents) if parent == place):
                if growth.exhausted(node):
                    break
                nodes[child], _ = growth.draw(node)
                next_layer.append(child)
        layer = next_layer


def draw_greedy(
    growth: Growth, probs_after: ProbsAfter, *, nodes: int, layers: int, leaves: int = 1 << 30
) -> Asking[None]:
    """DySpec with a fixed size: always draw where the chance is largest that the draw is reached and tested.

    The chance of a place is known before its token is drawn. A node's distribution is computed when its first child is
    drawn, so the draft model makes at most one forward per node.

    Args:
        growth: The tree to grow.
        probs_after: Gives the draft model's distributions.
        nodes: Most drafted nodes.
        layers: Most drafted layers.
        leaves: Most leaves.
    """
    # (minus the chance of the place, order of its making, its parent, the parent's depth)
    heap: list[tuple[float, int, int, int]] = [(-1.0, 0, ROOT, 0)]
    order, ends = 1, 1
    while heap and len(growth) < nodes:
        value, _, node, depth = heapq.heappop(heap)
        if growth.children(node) > 0:
            if ends == leaves:
                continue
            ends += 1
        if not growth.knows(node):
            (probs,) = yield from probs_after(growth.draft(), [node])
            growth.give(node, probs)
        child, probability = growth.draw(node)
        if not growth.exhausted(node) and probability < 1.0:
            heapq.heappush(heap, (value * (1.0 - probability), order, node, depth))
        if depth + 1 < layers:
            heapq.heappush(heap, (value * probability, order + 1, child, depth + 1))
        order += 2


def draw_threshold(
    growth: Growth, probs_after: ProbsAfter, *, threshold: float, nodes: int, layers: int, leaves: int = 1 << 30
) -> Asking[None]:
    """DySpec with a threshold: draw every place whose chance is large enough, one draft forward per layer.

    Args:
        growth: The tree to grow.
        probs_after: Gives the draft model's distributions.
        threshold: Least chance that a draw is reached and tested.
        nodes: Most drafted nodes.
        layers: Most drafted layers.
        leaves: Most leaves.
    """
    least = threshold - 1e-12
    ends = 1
    layer = [(ROOT, 1.0)]
    for _ in range(layers):
        if not layer or len(growth) >= nodes:
            return
        given = yield from probs_after(growth.draft(), [node for node, _ in layer])
        drawn: list[tuple[int, float]] = []
        for (node, value), probs in zip(layer, given, strict=True):
            growth.give(node, probs)
            while value >= least and len(growth) < nodes and not growth.exhausted(node):
                if growth.children(node) > 0:
                    if ends == leaves:
                        break
                    ends += 1
                child, probability = growth.draw(node)
                drawn.append((child, value * probability))
                value *= 1.0 - probability
        layer = [(node, value) for node, value in drawn if value >= least]


def finish(growing: Asking[None]) -> None:
    """Run a growth whose distributions need no forwards."""
    for _ in cast(Iterable[Any], growing):
        raise RuntimeError("this growth asks for forwards")
