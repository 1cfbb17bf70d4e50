"""Which part of a draft pays: expected tokens per second, from chances of acceptance and the cost curve.

Everything here depends on the past only, so the distribution of what is emitted is untouched.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...core.decode import NO_DRAFT, ROOT, UNLIMITED, Draft
from .cost import CostCurve, SharedCurve

MARGIN = 1.03
"""Drafting must promise this many times the speed of plain decoding: a smaller gain is noise."""
CAUTION = 0.1
"""What a draft must promise beyond MARGIN for each plain step that its rows cost.

The best candidates are often those whose chance is estimated too high. A wrong one costs many steps where rows are
expensive.
"""
ENDOWMENT = 1.0
"""Plain steps that a run may lose by drafting before it has gained any."""
ALLOWANCE = 0.005
"""Plain steps that a run may lose in addition, for each of its steps."""


class LossBudget:
    """What a run can afford to lose by its next draft, in plain steps.

    A run may lose ENDOWMENT and ALLOWANCE, and what its drafts have gained so far. If no draft risks more than `left`,
    then `emitted` tokens cost at most ENDOWMENT + (1 + ALLOWANCE) * emitted plain steps. That holds at the curve's
    prices, even if every draft is rejected.

    >>> losses = LossBudget(); before = losses.left
    >>> losses.settle(price=2.5, emitted=1); losses.settle(price=1.5, emitted=4); round(losses.left - before, 6)
    1.01
    """

    def __init__(self) -> None:
        self.left = ENDOWMENT
        """Plain steps that the next draft may lose."""

    def settle(self, price: float, emitted: int) -> None:
        """Count a step that cost as much as `price` plain ones and emitted so many tokens."""
        self.left += emitted - price + ALLOWANCE


def best_part(
    draft: Draft,
    values: Sequence[float],
    curve: CostCurve,
    context: int,
    *,
    leaves: int,
    size: int,
    losses: float = math.inf,
    sharing: int = 1,
    cuts: int = UNLIMITED,
) -> Draft:
    """The part of a draft with most expected tokens per second, less CAUTION.

    Only for drafts that are a function of the past. Leaving out drawn tokens by their value would change the
    distribution of what is emitted.

    Args:
        draft: All candidates.
        values: The chance that each node is accepted, at most its parent's.
        curve: What the target's forwards cost.
        context: Tokens in the target's cache.
        leaves: Most leaves of the part.
        size: Most nodes of the part.
        losses: Plain steps that may be lost if no node is accepted.
        sharing: Requests that share the target's forward.
        cuts: As in `SharedCurve`.

    Returns:
        The part; NO_DRAFT where no draft pays or a plain step is due.
    """
    nodes = _by_value(draft, values, leaves, size)
    prices = SharedCurve(curve, sharing, cuts)
    count, ratio = _best_count([values[node] for node in nodes], prices, context, losses)
    if curve.plain_due(ratio):
        return NO_DRAFT
    return _part(draft, nodes[:count])


def _best_count(values: Sequence[float], curve: SharedCurve, context: int, losses: float) -> tuple[int, float]:
    """(how many of the first nodes pay most, the speed of the step with them over that of a plain one)."""
    plain = curve.now(1, context)
    best, emitted = 0, 1.0
    best_ratio = best_score = MARGIN
    for count, value in enumerate(values, start=1):
        emitted += value
        if curve.drafted(count, context, accepted=0.0, whole=0.0) / plain - 1.0 > losses:
            continue
        price = curve.drafted(count, context, accepted=emitted - 1.0, whole=value) / plain
        score = emitted / price - CAUTION * (price - 1.0)
        if score > best_score:
            best = count
            best_ratio = emitted / price
            best_score = score
    return best, best_ratio


def _by_value(draft: Draft, values: Sequence[float], leaves: int, size: int) -> list[int]:
    """At most `size` nodes, those of largest value, each after its parent."""
    order = sorted(range(len(draft)), key=lambda node: (-values[node], node))
    taken: list[int] = []
    known = {ROOT}
    parents: set[int] = set()
    ends = 1
    for node in order:
        parent = draft.parents[node]
        is_branch = parent in parents
        if parent not in known or (is_branch and ends == leaves):
            continue
        if len(taken) == size:
            break
        ends += 1 if is_branch else 0
        parents.add(parent)
        known.add(node)
        taken.append(node)
    return taken


def _part(draft: Draft, nodes: Sequence[int]) -> Draft:
    """The draft without its other nodes; each of `nodes` has its parent among them."""
    ordered = sorted(nodes)
    place = {node: i for i, node in enumerate(ordered)} | {ROOT: ROOT}
    return Draft(
        tuple(draft.tokens[node] for node in ordered),
        tuple(place[draft.parents[node]] for node in ordered),
    )
