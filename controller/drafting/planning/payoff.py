"""Whether and how much to draft: expected tokens per second, from recent acceptance and the cost curve.

Everything here looks at the past only, so the law of what is emitted is untouched.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...core.decode import NO_DRAFT, ROOT, Draft
from .cost import CostCurve

MARGIN = 1.03
"""Drafting must promise this much more than plain decoding: what is gained below it is noise."""
CAUTION = 0.1
"""What a promise must hold beyond that for each plain step that its further rows cost: candidates that look best are
often those whose chance is estimated too high, and where rows are dear a wrong one costs many steps."""
ENDOWMENT, ALLOWANCE = 1.0, 0.005
"""Plain steps that a run may lose by drafting, and the share of its steps that it may lose besides: estimates err, and
what is lost beyond that must have been gained before."""


class LossBudget:
    """What a run can afford to lose by its next draft, in plain steps.

    Where no draft risks more, `emitted` tokens cost at most ENDOWMENT + (1 + ALLOWANCE) * emitted plain steps, at the
    prices of the curve and whatever becomes of the drafts.

    >>> stake = LossBudget(); before = stake.left
    >>> stake.settle(price=2.5, emitted=1); stake.settle(price=1.5, emitted=4); round(stake.left - before, 6)
    1.01
    """

    def __init__(self) -> None:
        self.left = ENDOWMENT

    def settle(self, price: float, emitted: int) -> None:
        """A step cost so many plain ones and brought so many tokens."""
        self.left += emitted - price + ALLOWANCE


def best_part(
    draft: Draft,
    values: Sequence[float],
    curve: CostCurve,
    context: int,
    *,
    leaves: int,
    size: int,
    stake: float = math.inf,
) -> Draft:
    """The nodes worth verifying, `size` at most: most expected tokens per second, less CAUTION; or none.

    values[i]: probability that node i is accepted, at most its parent's. stake: plain steps that may be lost if none
    is. Only for drafts that are a function of the past: leaving drawn tokens out by their value would change the law.
    None too where a plain step is due.
    """
    order = sorted(range(len(draft)), key=lambda i: (-values[i], i))
    plain = curve.now(1, context)
    best, ratio, score, gain, ends = 0, MARGIN, MARGIN, 1.0, 1
    taken: list[int] = []
    known, inner = {ROOT}, set[int]()
    for node in order:
        parent = draft.parents[node]
        branches = parent in inner
        if parent not in known or (branches and ends == leaves):
            continue
        if len(taken) == size:
            break
        ends += branches
        inner.add(parent)
        known.add(node)
        taken.append(node)
        gain += values[node]
        price = curve.now(1 + len(taken), context) / plain
        if price - 1.0 > stake:
            continue
        found = gain / price - CAUTION * (price - 1.0)
        if found > score:
            best, ratio, score = len(taken), gain / price, found
    if curve.plain_due(ratio):
        return NO_DRAFT
    kept = sorted(taken[:best])
    place = {node: i for i, node in enumerate(kept)} | {ROOT: ROOT}
    return Draft(tuple(draft.tokens[n] for n in kept), tuple(place[draft.parents[n]] for n in kept))
