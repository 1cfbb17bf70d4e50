"""What audited runs say against "at most `risk` of the runs fail": the wealth of a bettor, which is read after any run.

**Bets.** A bet on odds that are m times those of the promise pays q / risk for a failure and (1 - q) / (1 - risk) else,
where q is the share that those odds mean. If a run fails with probability risk given the past, that has mean 1; with a
smaller probability its mean is below 1, as a failure pays more than 1. So the wealth of each bet is a nonnegative
supermartingale (Waudby-Smith and Ramdas 2023, section 4), and by Ville's inequality (1939) it ever reaches
1 / level with probability `level` at most.

**When.** A promise may hold for a while and then break. The wealth is divided beforehand: half of it is bet from the
first audit on, the rest from later ones, less and less of it the later. Each part is cash until its start. A sum of
such parts is a supermartingale that begins at 1. (The e-detectors of Shin, Ramdas and Rinaldo 2023 add such processes
up without weights, and bound how often alarms come; with weights that sum to 1 the alarm is false with probability
`level` at most, ever.)

Knows no run and no rule. The proof in full, and what was measured: docs/audits.md.
"""

from __future__ import annotations

import math

import numpy as np

from ..core.errors import ControllerError

LEVEL = 0.01
"""Largest probability of a false alarm, ever."""
ODDS = (2.0, 3.5, 8.0)
"""The odds that are bet on, in multiples of the promise's."""
SHARES = (0.4, 0.3, 0.3)
"""How the wealth is divided over them."""
AT_ONCE = 0.5
"""The share of the wealth that is bet from the first audit on."""
_LARGEST = 700.0


class Evidence:
    """An e-process for "each audited run fails with probability `risk` at most, whatever came before".

    >>> evidence = Evidence(risk=0.05)
    >>> for run in range(40):
    ...     evidence.update(run % 2 == 0)
    >>> evidence.alarm, evidence.audits, evidence.failures
    (True, 40, 20)
    """

    def __init__(self, risk: float, level: float = LEVEL) -> None:
        """Start with no audit.

        Args:
            risk: Largest probability that a run fails; in (0, 1).
            level: Largest probability of a false alarm, ever; in (0, 1).

        Raises:
            ControllerError: One of them is out of its range.
        """
        for name, value in (("risk", risk), ("level", level)):
            if not 0.0 < value < 1.0:
                raise ControllerError(f"the audits' {name} is {value}; it must be above 0 and below 1, say 0.05")
        self.risk = risk
        self.level = level
        self.audits = 0
        """Audited runs taken in."""
        self.failures = 0
        """How many of them failed."""
        odds = np.array(ODDS)
        self._lost = -np.log1p((odds - 1) * risk)
        """By bet: the logarithm of what a run without a failure pays."""
        self._won = np.log(odds) + self._lost
        self._begun = np.full(len(odds), -math.inf)
        """By bet: the logarithm of the wealth of the parts that have begun."""
        self._highest = 0.0

    def update(self, failed: bool) -> None:
        """Take in the next audited run."""
        n = self.audits
        # The parts that begin at audit 2, 3, ... are differences of 1 / log2, so that what is left has a closed form.
        new = AT_ONCE if n == 0 else (1 - AT_ONCE) * (1 / math.log2(n + 1) - 1 / math.log2(n + 2))
        self._begun = np.logaddexp(self._begun, math.log(new) + np.log(SHARES))
        self._begun += self._won if failed else self._lost
        self.audits = n + 1
        self.failures += failed
        self._highest = max(self._highest, self._log_wealth)

    @property
    def _cash(self) -> float:
        """The wealth whose parts begin later."""
        return 1.0 if self.audits == 0 else (1 - AT_ONCE) / math.log2(self.audits + 1)

    @property
    def _log_wealth(self) -> float:
        return float(np.logaddexp(np.logaddexp.reduce(self._begun), math.log(self._cash)))

    @property
    def wealth(self) -> float:
        """The e-value now: about 1 or less while the promise holds, large once it doesn't."""
        return math.exp(min(self._log_wealth, _LARGEST))

    @property
    def highest(self) -> float:
        """The largest e-value so far."""
        return math.exp(min(self._highest, _LARGEST))

    @property
    def alarm(self) -> bool:
        """Whether the wealth has ever reached 1 / level. It stays."""
        return self._highest >= -math.log(self.level)
