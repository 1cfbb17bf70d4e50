"""Plans: which shape of draft pays now, by recent acceptance of each rank and by measured forward times.

Everything here looks at the past only, so the law of what is emitted is untouched.
"""

from __future__ import annotations

from typing import Literal

from .cost import CostCurve
from .drafters import Drafter
from .errors import ControllerError
from .speed import MARGIN, Rates, Stopwatch
from .trees import Shape, best_shape, monotone

Kind = Literal["chain", "sequoia", "dyspec", "dyspec-greedy"]
SIZES = (2, 3, 4, 5, 6, 8, 12, 16, 24, 32)
RANKS = 4
REPLAN, PAUSE, LONGEST_PAUSE = 16, 64, 1024
"""Steps between two plans; plain steps before drafting that did not pay is tried again, at first and at most."""
PRIOR = {"0": 0.7, "1": 0.12, "2": 0.05, "3": 0.02}


class Planned:
    """What drafters with a model share: the tree and its bounds, and what is known of acceptance and of costs.

    curves: the target's forward times and the draft model's; None = measured at first use.
    """

    def __init__(
        self, *, kind: Kind, size: int, depth: int, adaptive: bool,
        curves: tuple[CostCurve, CostCurve] | None, below: Drafter | None,
    ) -> None:  # fmt: skip
        if size < 1 or depth < 1:
            raise ControllerError(f"draft size is {size} and depth {depth}; both must be at least 1")
        if below is not None and kind != "chain":
            raise ControllerError(f"a level below drafts chains; kind is {kind!r}")
        self.kind, self.size, self.depth = kind, size, depth
        self.adaptive, self.curves, self.below = adaptive, curves, below
        self.rates = Rates(dict(PRIOR), strength=10.0)

    def acceptance(self) -> tuple[float, ...]:
        """Of each rank, non-increasing, with a sum below 1."""
        ranks = [str(k) for k in range(RANKS)]
        smooth = monotone([self.rates.of(k) for k in ranks], [self.rates.weight(k) for k in ranks])
        total = max(1.0, sum(smooth) / 0.999)
        return tuple(p / total for p in smooth)


class Plan:
    """One run's plan: the shape to draft now; an empty one while drafting doesn't pay."""

    def __init__(self, drafter: Planned) -> None:
        self.d = drafter
        self.shape = Shape()
        self.watch: Stopwatch | None = None
        self._steps = self._pause = 0
        self._next_pause = PAUSE

    def due(self) -> bool:
        """Count a step; True where a new shape must be chosen: every REPLAN steps, and after a pause."""
        self._steps += 1
        if self._pause:
            self._pause -= 1
            if self._pause == 0:
                self.d.rates.relax()
            return False
        return self.watch is None or not self.shape.parents or self._steps % REPLAN == 0

    def choose(self, target: CostCurve, own: CostCurve, *, context: int, leaves: int) -> None:
        """The best shape under both curves, or a pause: twice as long each time."""
        if self.watch is None or self.watch.curve is not target:
            self.watch = Stopwatch(target)
        chain = leaves == 1
        layer = own.now(1 if chain else 4, context)
        self.shape, rate = best_shape(
            # Behind the last layer the draft model isn't asked.
            self.d.acceptance()[: 1 if chain else RANKS],
            lambda n: target.now(n, context) - (layer if n > 1 else 0.0), layer,
            sizes=[n for n in SIZES if n <= self.d.size + 1], layers=self.d.depth + 1, leaves=leaves,
        )  # fmt: skip
        if rate * target.now(1, context) < MARGIN:
            self.shape, self._pause = Shape(), self._next_pause
            self._next_pause = min(2 * self._next_pause, LONGEST_PAUSE)

    def begin(self, rows: int) -> None:
        """The target's forward of so many rows begins."""
        if self.watch is not None:
            self.watch.begin(rows)

    def end(self) -> None:
        """What was accepted is known."""
        if self.watch is not None:
            self.watch.end()
