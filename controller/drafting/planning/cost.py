"""What a forward of n rows costs on this machine: measured, interpolated, and corrected while running.

This file knows times only. `payoff.py` and `plan.py` decide by them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from ...core.decode import ROOT, UNLIMITED, Asking, Clock, Decode, Draft, Session
from ...core.errors import ControllerError

ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48)
"""Numbers of rows that `ctl bench` times."""
FIRST_ROWS = (1, 2, 4, 8, 16, 24, 48)
"""Numbers of rows that are timed at first use."""
BUDGET = 3.0
"""Seconds that measuring at first use may take."""
ROUNDS = 5
"""Rounds of measuring, at most."""
CONTEXT = 64
"""Tokens of context at first use."""
FOLLOW = 0.1
"""Least weight of a new forward in a correction."""
FORGET_SEVERAL = 1024
"""Plain steps over which the corrections of forwards of several rows fade."""
FORGET_SIZE = 64
"""Forwards of several rows over which the correction of one number of rows fades."""
PLAIN_EVERY = 64
"""Drafted steps after which a plain step measures its own time, where drafting is as fast as plain decoding."""
MOST_KNOWN = 4096
"""Interpolated prices that a curve remembers."""
SHORTEST = 1e-9
"""Seconds of the fastest forward that a curve may hold; a clock may show 0."""
LONGEST = 1e5
"""Seconds of the slowest forward that a curve may hold."""
_LN2 = math.log(2.0)


@dataclass
class DecayingLog:
    """A running average of logarithms: it moves fast at first, and later averages about the last ten values.

    Later on, one outlier moves it by at most a tenth of ln 2. A lasting change moves it all the way.

    >>> level = DecayingLog()
    >>> for _ in range(40): level.follow(0.5)
    >>> level.follow(9.0); round(level.value, 2)
    0.57
    """

    value: float = 0.0
    """The average now."""
    _seen: int = 0
    """Values so far."""

    def follow(self, seen: float) -> None:
        """Move towards a new value."""
        self._seen += 1
        off = min(max(seen - self.value, -_LN2), _LN2)
        self.value += off * max(FOLLOW, 1.0 / (1 + self._seen))

    def fade(self, steps: int) -> None:
        """Move towards 0. About 0.7 * `steps` calls make half of the way."""
        self.value -= self.value / steps


@dataclass
class CostCurve:
    """Seconds of one forward by its number of rows, at the lengths of context where they were measured.

    Between its points a curve may fall. Beyond the last one it never does, so that no forward seems to be free.

    While running, forwards that take another time than was measured correct the curve. There is one correction for
    plain forwards, one for all forwards of several rows, and one for each number of rows. A correction fades while no
    forward of its kind is seen. So a few slow forwards don't rule a size out for ever.

    >>> curve = CostCurve({100: {1: 1.0, 4: 1.6}, 300: {1: 2.0, 4: 3.2}})
    >>> curve.at(2), curve.at(4, context=200), round(curve.at(7), 6)
    (1.2, 2.4000000000000004, 2.2)
    """

    seconds: Mapping[int, Mapping[int, float]]
    """Measured seconds, by tokens of context and then by rows."""
    _plain: DecayingLog = field(default_factory=DecayingLog, compare=False)
    """Correction of forwards of one row."""
    _several: DecayingLog = field(default_factory=DecayingLog, compare=False)
    """Correction of all forwards of several rows, in addition."""
    _sizes: dict[int, DecayingLog] = field(default_factory=dict, compare=False)
    """Correction of each number of rows, in addition."""
    _drafted: int = field(default=0, compare=False)
    """Drafted steps since the last plain one."""
    _found: dict[tuple[int, int], float] = field(default_factory=dict, compare=False)
    """Interpolated seconds, by rows and context."""

    def __post_init__(self) -> None:
        """Raise ControllerError unless the curve holds times, and each of them is possible."""
        if not self.seconds or not all(self.seconds.values()):
            raise ControllerError("a cost curve holds no times; give the seconds of forwards of 1 and more rows")
        for context, by_rows in self.seconds.items():
            for rows, took in by_rows.items():
                if context < 0 or rows < 1 or not SHORTEST <= took <= LONGEST:
                    raise ControllerError(
                        f"a cost curve says {took!r:.40} seconds for {rows} rows after {context} tokens; it must be "
                        f"from {SHORTEST:g} to {LONGEST:g}, for at least 1 row after at least 0 tokens"
                    )

    def at(self, rows: int, context: int = 0) -> float:
        """Seconds of a forward as measured.

        Times are interpolated. Beyond the most rows they follow the last slope, or stay level where it falls.

        Args:
            rows: Rows of the forward.
            context: Tokens in the cache before it.
        """
        key = rows, context if len(self.seconds) > 1 else 0
        found = self._found.get(key)
        if found is None:
            if len(self._found) > MOST_KNOWN:
                self._found.clear()
            found = self._found[key] = self._interpolated(rows, context)
        return found

    def _interpolated(self, rows: int, context: int) -> float:
        lengths = sorted(self.seconds)
        below = max((length for length in lengths if length <= context), default=lengths[0])
        above = min((length for length in lengths if length >= context), default=lengths[-1])
        low = _line(self.seconds[below], rows)
        if above <= below:
            return low
        return low + (context - below) / (above - below) * (_line(self.seconds[above], rows) - low)

    def note(self, rows: int, seconds: float, context: int = 0) -> None:
        """Correct the curve by a forward that was timed.

        Args:
            rows: Rows of the forward.
            seconds: What it took.
            context: Tokens in the cache before it.
        """
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
        """Seconds of a forward as they are now: `at` with the corrections."""
        off = self._plain.value
        if rows > 1:
            own = self._sizes.get(rows)
            off += self._several.value + (0.0 if own is None else own.value)
        return self.at(rows, context) * math.exp(off)

    def plain_due(self, ratio: float) -> bool:
        """Whether a plain step should be made, to measure what it costs now.

        Args:
            ratio: Speed of the best draft over that of plain decoding. The larger it is, the rarer plain steps are.
        """
        return self._drafted >= PLAIN_EVERY * ratio * ratio


def _line(points: Mapping[int, float], rows: int) -> float:
    """Piecewise linear through `points`. With one point, the time is proportional to the rows."""
    known = sorted(points)
    if len(known) == 1:
        return points[known[0]] * max(1.0, rows / known[0])
    above = next((n for n in known if n >= rows), known[-1])
    below = max((n for n in known if n < above), default=known[0])
    if above == below:
        return points[above]
    slope = (points[above] - points[below]) / (above - below)
    if rows > above:
        return points[above] + (rows - above) * max(slope, 0.0)
    return points[below] + (rows - below) * slope


@dataclass(frozen=True)
class SharedCurve:
    """A curve as one of several runs sees it whose requests share each forward: all bring as many rows.

    >>> SharedCurve(CostCurve({0: {1: 1.0, 8: 1.7}}), sharing=4).now(2)
    1.7
    """

    curve: CostCurve
    """What a forward costs by its rows."""
    sharing: int
    """Requests of a forward."""
    cuts: int = UNLIMITED
    """As `Engine.cuts`: accepted tokens of a longer draft are fed again where it is rejected in part."""

    def drafted(self, nodes: int, context: int, accepted: float, whole: float) -> float:
        """Seconds of a step with a draft, and of what it leaves to be fed again.

        Args:
            nodes: Drafted tokens.
            context: Tokens in the cache before the step.
            accepted: Drafted tokens that are accepted on average.
            whole: The chance that all of them are.
        """
        seconds = self.now(1 + nodes, context)
        if nodes <= self.cuts or whole >= 1.0:
            return seconds
        in_part = max(0.0, accepted - nodes * whole) / (1.0 - whole)
        return seconds + (1.0 - whole) * self.now(1 + round(in_part), context)

    def now(self, rows: int, context: int = 0) -> float:
        """Seconds of a forward in which every request has so many rows."""
        return self.curve.now(rows * self.sharing, context)


def rising(seconds: Mapping[int, float]) -> dict[int, float]:
    """Make times rise with rows: a forward costs no more than one of more rows.

    Other work on the machine only adds to a time. So of two times in the wrong order the larger one is wrong, and is
    lowered.

    >>> rising({1: 0.010, 2: 0.008, 4: 0.009})
    {1: 0.008, 2: 0.008, 4: 0.009}
    """
    least = math.inf
    found: dict[int, float] = {}
    for rows in sorted(seconds, reverse=True):
        least = min(least, max(seconds[rows], SHORTEST))
        found[rows] = least
    return dict(sorted(found.items()))


def measure(
    session: Session, tokens: Sequence[int], *, rows: Sequence[int] = ROWS, rounds: int = ROUNDS, budget: float = BUDGET
) -> Asking[dict[int, float]]:
    """Time forwards of several numbers of rows in turn, after a round to warm up; closes the session.

    Args:
        session: An empty sequence, or one whose tokens are the context too.
        tokens: Fed first, as the context.
        rows: The numbers of rows.
        rounds: Rounds that count.
        budget: Seconds after which measuring stops, even in the middle of a round. Two numbers of rows are timed in
            any case; the cost curve continues along their slope.

    Returns:
        The lower quartile of the seconds by rows, made to rise (`rising`).
    """
    try:
        yield Decode(session, tokens)
        session.checkpoint()
        most = 1 + max(0, session.can.drafted(1))
        taken: dict[int, list[float]] = {n: [] for n in sorted(rows) if n <= most}
        begin = time.perf_counter()
        for i, n in enumerate([*taken] * (rounds + 1)):
            if i >= 2 and time.perf_counter() - begin > budget:
                break
            clock = Clock(alone=True)
            draft = Draft.chain([tokens[i % len(tokens)] for i in range(n - 1)])
            start = time.perf_counter()
            step = yield Decode(session, tokens[-1:], draft, clock=clock)
            step.logits(ROOT)
            # A driver of many loops sets the clock to this forward's share of its time.
            taken[n].append(clock.seconds or time.perf_counter() - start)
            session.keep([])
            session.rollback(1)
    finally:
        session.close()
    return rising({n: _lower_quartile(seconds[1:] or seconds) for n, seconds in taken.items() if seconds})


def _lower_quartile(seconds: Sequence[float]) -> float:
    """The lower quartile: other work only adds to a forward's time, so the shorter times say more."""
    return sorted(seconds)[len(seconds) // 4]


T = TypeVar("T")


class Stopwatch:
    """Corrects a curve by the seconds of the target's forwards. It counts ordinary steps only.

    Args:
        curve: The target's.
        clock: Holds the seconds of the target's last forward.
    """

    def __init__(self, curve: CostCurve, clock: Clock) -> None:
        self.curve = curve
        self.clock = clock
        self.context: int | None = None
        """Tokens in the cache before the ordinary step that comes next; None where none was announced."""

    def begin(self, context: int, owed: int = 0) -> None:
        """An ordinary step comes next, after so many tokens; one that feeds owed tokens again isn't ordinary."""
        self.context = None if owed else context

    def end(self, rows: int) -> None:
        """The step's forward had so many rows."""
        if self.context is not None and self.clock.seconds is not None:
            self.curve.note(rows, self.clock.seconds, self.context)
        self.context = None


def counted(asking: Asking[T]) -> Asking[tuple[T, float]]:
    """Run something that asks for forwards, and time its own work between them.

    Returns:
        Its result, and the seconds of its own work. Forwards aren't counted.
    """
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
