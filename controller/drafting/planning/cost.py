"""What a forward of n rows costs on this machine: measured, kept in the user's cache folder, corrected while running.

Owns times only; what to do about them is decided in `speed.py`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from ...core.decode import ROOT, Clock, Decode, Draft, Session, Step

ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48)
FIRST_ROWS = (1, 2, 4, 8, 16, 24, 48)
"""Numbers of rows that are timed: by `ctl bench`, and at first use."""
BUDGET = 3.0
"""Seconds that measuring at first use may take, and the rounds it makes at most."""
ROUNDS = 5
CONTEXT = 64
"""Tokens of context at first use."""
FOLLOW = 0.1
"""Weight of a new forward in what was seen."""
FORGET_SEVERAL, FORGET_SIZE = 1024, 64
"""Plain steps after which the prices of drafts, and forwards of other sizes after which one size's, are forgotten."""
PLAIN_EVERY = 64
"""Drafted steps after which a plain one shows its price, where drafting just pays."""
_LN2 = math.log(2.0)


@dataclass
class DecayingLog:
    """A logarithm that follows what is seen: fast at first, then a decaying average of about ten.

    A single outlier moves it by a tenth of ln 2 at most, a lasting change all the way.

    >>> level = DecayingLog()
    >>> for _ in range(40): level.follow(0.5)
    >>> level.follow(9.0); round(level.value, 2)
    0.57
    """

    value: float = 0.0
    _seen: int = 0

    def follow(self, seen: float) -> None:
        self._seen += 1
        off = min(max(seen - self.value, -_LN2), _LN2)
        self.value += off * max(FOLLOW, 1.0 / (1 + self._seen))

    def fade(self, steps: int) -> None:
        """Less is known of it: to be believed half as much after 0.7 `steps` of these."""
        self.value -= self.value / steps


@dataclass
class CostCurve:
    """Seconds of one forward by its number of rows, at the lengths of context where they were taken.

    Corrected while running, by the ratio of what is seen to what was measured: of plain forwards, of those of several
    rows beside it, and of single numbers of rows. What is not seen for long is forgotten, so that a few slow forwards
    are no verdict for ever.

    >>> curve = CostCurve({100: {1: 1.0, 4: 1.6}, 300: {1: 2.0, 4: 3.2}})
    >>> curve.at(2), curve.at(4, context=200), round(curve.at(7), 6)
    (1.2, 2.4000000000000004, 2.2)
    """

    seconds: Mapping[int, Mapping[int, float]]
    _plain: DecayingLog = field(default_factory=DecayingLog, compare=False)
    _several: DecayingLog = field(default_factory=DecayingLog, compare=False)
    _sizes: dict[int, DecayingLog] = field(default_factory=dict, compare=False)
    _drafted: int = field(default=0, compare=False)
    _found: dict[tuple[int, int], float] = field(default_factory=dict, compare=False)

    def at(self, rows: int, context: int = 0) -> float:
        """Interpolated between what was measured; beyond the most rows along the last slope."""
        key = rows, context if len(self.seconds) > 1 else 0
        found = self._found.get(key)
        if found is None:
            if len(self._found) > 4096:
                self._found.clear()
            found = self._found[key] = self._interpolated(rows, context)
        return found

    def _interpolated(self, rows: int, context: int) -> float:
        lengths = sorted(self.seconds)
        below = max((n for n in lengths if n <= context), default=lengths[0])
        above = min((n for n in lengths if n >= context), default=lengths[-1])
        low = _line(self.seconds[below], rows)
        if above <= below:
            return low
        return low + (context - below) / (above - below) * (_line(self.seconds[above], rows) - low)

    def note(self, rows: int, seconds: float, context: int = 0) -> None:
        """A forward behind `context` tokens was seen to take that long."""
        seen = math.log(max(seconds, 1e-9) / self.at(rows, context))
        if rows == 1:
            self._drafted = 0
            self._plain.follow(seen)
            self._several.fade(FORGET_SEVERAL)
            for size in self._sizes.values():
                size.fade(FORGET_SEVERAL)
            return
        self._drafted += 1
        own = self._sizes.setdefault(rows, DecayingLog())
        for size in self._sizes.values():
            size.fade(FORGET_SIZE)
        seen -= self._plain.value
        self._several.follow(seen - own.value)
        own.follow(seen - self._several.value)

    def now(self, rows: int, context: int = 0) -> float:
        """`at`, corrected by what was seen."""
        off = self._plain.value
        if rows > 1:
            own = self._sizes.get(rows)
            off += self._several.value + (0.0 if own is None else own.value)
        return self.at(rows, context) * math.exp(off)

    def plain_due(self, ratio: float) -> bool:
        """Whether a plain step should show what it costs now; less often the more drafting gains (`ratio`)."""
        return self._drafted >= PLAIN_EVERY * ratio * ratio


def _line(points: Mapping[int, float], rows: int) -> float:
    """Piecewise linear through `points`."""
    known = sorted(points)
    if len(known) == 1:
        return points[known[0]]
    above = next((n for n in known if n >= rows), known[-1])
    below = max((n for n in known if n < above), default=known[0])
    if above == below:
        return points[above]
    return points[below] + (rows - below) / (above - below) * (points[above] - points[below])


def measure(
    session: Session, tokens: Sequence[int], *, rows: Sequence[int] = ROWS, rounds: int = ROUNDS, budget: float = BUDGET
) -> Generator[Decode, Step, dict[int, float]]:
    """Lower quartile of a forward's seconds by its rows (chain drafts), behind `tokens`; closes the session.

    Interleaved, one round to warm up. Stops as soon as `budget` seconds are over, in the middle of a round too: two
    numbers of rows at least are timed, warm or not, and a larger one that was not reached lies along the last slope.
    """
    yield Decode(session, tokens)
    most = 1 + max(0, session.can.drafted(1))
    taken: dict[int, list[float]] = {n: [] for n in sorted(rows) if n <= most}
    begin = time.perf_counter()
    for i, n in enumerate([*taken] * (rounds + 1)):
        if i >= 2 and time.perf_counter() - begin > budget:
            break
        clock = Clock()
        draft = Draft.chain([tokens[i % len(tokens)] for i in range(n - 1)])
        start = time.perf_counter()
        step = yield Decode(session, tokens[-1:], draft, clock=clock)
        step.logits(ROOT)
        # A driver of many loops knows better what was this forward's part.
        taken[n].append(clock.seconds or time.perf_counter() - start)
        session.keep([])
        session.rollback(1)
    session.close()
    # The lower quartile: another process's work only ever adds to a forward's time.
    timed = {n: sorted(seconds[1:] or seconds) for n, seconds in taken.items() if seconds}
    return {n: seconds[len(seconds) // 4] for n, seconds in timed.items()}


T = TypeVar("T")


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
