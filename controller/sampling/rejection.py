"""The verifier of one node: emit a token of the target's law, and a drafted one as often as that law allows.

Chains and trees are verified node by node on the way down, so this is all there is to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..core.decode import Floats, Proposal


def node_tests(target: Floats, proposal: Proposal) -> Iterator[tuple[int | None, Floats, Floats]]:
    """The tests of a node in draw order: (token drawn, what the target has left, the law of this draw).

    A test accepts with probability min(1, left[token] / law[token]); the next item is for the case that it did not.
    The last item has no token: its `left` is the law of the emitted token if no test accepted. All shapes
    (vocabulary,), all sums 1. One test gives min(left, law) plus the rejected mass times norm(max(left - law, 0)),
    which is `left` again: by induction the node's token follows the target. Without replacement: Sequoia's rule.
    """
    left, law = target, proposal.probs
    for token in proposal.draws:
        yield token, left, law
        rest = np.maximum(left - law, 0.0)
        mass = rest.sum()
        if mass > 0.0:  # otherwise left == law, and a rejection has probability 0
            left = rest / mass
        if not proposal.replacement:
            law = law.copy()
            law[token] = 0.0
            mass = law.sum()
            if mass <= 0.0:
                break
            law /= mass
    yield None, left, law


def verify(
    weights: Floats, ids: Any, proposal: Proposal, uniform: Callable[[int], float]
) -> tuple[int | None, Floats, Any]:
    """(accepted token, -, -), or (None, weights, ids) of the law to draw the token from.

    weights, ids: the target's law as `Row.draw` takes it. uniform: number i of this node's own uniforms.
    """
    size = max(len(proposal.probs), len(weights) if ids is None else int(np.max(ids)) + 1)
    target = np.zeros(size)
    target[slice(len(weights)) if ids is None else ids] = weights
    target /= target.sum()
    if size > len(proposal.probs):
        padded = np.zeros(size)
        padded[: len(proposal.probs)] = proposal.probs
        proposal = Proposal(padded, proposal.draws, proposal.replacement)
    for i, (token, left, law) in enumerate(node_tests(target, proposal)):
        # Strictly less, and multiplied: a token that the target can't give is never accepted, and nothing is 0/0.
        if token is not None and uniform(i) * law[token] < left[token]:
            return token, left, None
    return None, left, None
