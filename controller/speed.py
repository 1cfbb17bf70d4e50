"""Whether and how much to draft: expected tokens per second, from recent acceptance and the cost curve.

Everything here looks at the past only, so the law of what is emitted is untouched.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from .cost import CostCurve
from .decode import NO_DRAFT, ROOT, Clock, Decode, Draft, Step

T = TypeVar("T")

MARGIN = 1.03
"""Drafting must promise this much more than plain decoding: what is gained below it is noise."""
CAUTION = 0.1
"""What a promise must hold beyond that for each plain step that its further rows cost: candidates that look best are
often those whose chance is estimated too high, and where rows are dear a wrong one costs many steps."""
ENDOWMENT, ALLOWANCE = 1.0, 0.005
"""Plain steps that a run may lose by drafting, and the share of its steps that it may lose besides: estimates err, and
what is lost beyond that must have been gained before."""
FORGET = 0.98
"""Weight of the past at each new outcome: about fifty outcomes are remembered."""


@dataclass
class Rates:
    """Success rates by kind, with exponential forgetting and a prior worth `strength` outcomes.

    fades: the prior is forgotten too. Of many kinds that are seen now and then the most promising one is often just a
    lucky one, and a prior that stays is what holds it down; of a few that are seen all the time it is only in the way.

    >>> rates = Rates({"long": 0.9}); rates.note("long", False); round(rates.of("long"), 3)
    0.75
    """

    prior: dict[str, float]
    strength: float = 5.0
    default: float = 0.1
    fades: bool = False
    _seen: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    """Successes, outcomes, and how many outcomes the prior is worth now."""

    def note(self, kind: str, hit: bool) -> None:
        """One outcome."""
        hits, n, strength = self._known(kind)
        self._seen[kind] = FORGET * hits + hit, FORGET * n + 1.0, strength * (FORGET if self.fades else 1.0)

    def relax(self) -> None:
        """Half of what was seen is forgotten: for what could not be watched for a while."""
        self._seen = {
            kind: (hits / 2, n / 2, (strength + self.strength) / 2) for kind, (hits, n, strength) in self._seen.items()
        }

    def of(self, kind: str) -> float:
        """The current estimate."""
        hits, n, strength = self._known(kind)
        return (hits + strength * self.prior.get(kind, self.default)) / (n + strength)

    def weight(self, kind: str) -> float:
        """Outcomes behind the estimate, the prior's among them."""
        _, n, strength = self._known(kind)
        return n + strength

    def _known(self, kind: str) -> tuple[float, float, float]:
        return self._seen.get(kind, (0.0, 0.0, self.strength))


class Stake:
    """What a run can afford to lose by its next draft, in plain steps.

    Where no draft risks more, `emitted` tokens cost at most ENDOWMENT + (1 + ALLOWANCE) * emitted plain steps, at the
    prices of the curve and whatever becomes of the drafts.

    >>> stake = Stake(); before = stake.left
    >>> stake.settle(price=2.5, emitted=1); stake.settle(price=1.5, emitted=4); round(stake.left - before, 6)
    1.01
    """

    def __init__(self) -> None:
        self.left = ENDOWMENT

    def settle(self, price: float, emitted: int) -> None:
        """A step cost so many plain ones and brought so many tokens."""
        self.left += emitted - price + ALLOWANCE


def best_part(
    draft: Draft, values: Sequence[float], curve: CostCurve, context: int, *, leaves: int, size: int,
    stake: float = math.inf,
) -> Draft:  # fmt: skip
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


class Stopwatch:
    """Takes the seconds of the target's forwards to its curve, those of steps that were proposed for."""

    def __init__(self, curve: CostCurve, clock: Clock) -> None:
        self.curve, self.clock = curve, clock
        self.context: int | None = None
        """Tokens in the cache before the ordinary step that was proposed for."""

    def begin(self, context: int) -> None:
        """An ordinary step comes, behind so many tokens."""
        self.context = context

    def end(self, rows: int) -> None:
        """It had so many rows."""
        if self.context is not None and self.clock.seconds is not None:
            self.curve.note(rows, self.clock.seconds, self.context)
        self.context = None


def counted(asking: Generator[Decode, Step, T]) -> Generator[Decode, Step, tuple[T, float]]:
    """(result, seconds) of something that asks for forwards: its own work between them, whoever runs them."""
    seconds, reply = 0.0, None
    while True:
        start = time.perf_counter()
        try:
            request = next(asking) if reply is None else asking.send(reply)
        except StopIteration as end:
            result: T = end.value
            return result, seconds + time.perf_counter() - start
        seconds += time.perf_counter() - start
        reply = yield request
