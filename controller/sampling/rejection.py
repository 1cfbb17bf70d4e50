"""Verifies the drafted tokens of one node. The emitted token follows the target's distribution.

Speculative sampling (Leviathan et al. 2023, Chen et al. 2023), for several draws at a node as in Sequoia (Chen et al.
2024). Chains and trees are verified node by node on the way down, so this is all there is to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from ..core.decode import Floats, Proposal


class NodeTest(NamedTuple):
    """One test of a node, and what it is made of. Both distributions have shape (vocabulary,) and sum 1."""

    token: int | None
    """The token drawn; None after the last draw."""
    target: Floats
    """What the target has left; after the last draw the distribution of the emitted token."""
    draft: Floats
    """The distribution of this draw."""


class Verified(NamedTuple):
    """What verification leaves of a node."""

    accepted: int | None
    """The drafted token to emit; None where no test accepted one."""
    residual: Floats
    """Shape (vocabulary,), sum 1: what the token is drawn from where none was accepted."""


def node_tests(target: Floats, proposal: Proposal) -> Iterator[NodeTest]:
    """The tests of a node in draw order, the last one without a token.

    A test accepts with probability min(1, target[token] / draft[token]); the next one is for the case that it did not.
    One test gives min(target, draft) plus the rejected mass times norm(max(target - draft, 0)), which is the target
    again: by induction the node's token follows the target. Without replacement: Sequoia's rule.

    Args:
        target: shape (vocabulary,), sum 1.
        proposal: the draws, and the distribution of the first of them, of the target's shape.
    """
    draft = proposal.probs
    for token in proposal.draws:
        yield NodeTest(token, target, draft)
        rest = np.maximum(target - draft, 0.0)
        mass = rest.sum()
        if mass > 0.0:  # otherwise target == draft, and a rejection has probability 0
            target = rest / mass
        if not proposal.replacement:
            draft = draft.copy()
            draft[token] = 0.0
            mass = draft.sum()
            if mass <= 0.0:
                break
            draft /= mass
    yield NodeTest(None, target, draft)


def verify(target: Floats, proposal: Proposal, uniform: Callable[[int], float]) -> Verified:
    """Test a node's draws against the target.

    Args:
        target: shape (vocabulary,), sum 1; may be longer than the draft's distribution.
        proposal: the node's draws.
        uniform: number i of this node's own uniforms.
    """
    if len(target) > len(proposal.probs):
        padded = np.zeros(len(target))
        padded[: len(proposal.probs)] = proposal.probs
        proposal = Proposal(padded, proposal.draws, proposal.replacement)
    for i, test in enumerate(node_tests(target, proposal)):
        if test.token is None:
            break
        # Strictly less, and multiplied: a token that the target can't give is never accepted, and nothing is 0/0.
        if uniform(i) * test.draft[test.token] < test.target[test.token]:
            return Verified(test.token, test.target)
    return Verified(None, test.target)
