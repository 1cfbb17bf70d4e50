"""At which cues of a run an exit is tried. A trial costs tokens, and most labels can't matter.

A rule exits at a run's first cue whose score is above a threshold. That cue scores above all earlier ones: it is a
*record* of its run. So for thresholds from a floor on, the records above the floor are all that is ever read.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Literal

from reasonctl.probes.signals import Probe

from .splits import FITTING_RUNS

Labels = Literal["records", "all"]
"""What is tried on calibration runs."""


@dataclass(frozen=True)
class Trials:
    """At which cues of one run an exit is tried, and what scores them."""

    at: Literal["all", "few", "records"] = "all"
    """Every cue; a few random ones, for fitting; or the records of the probe's score above the floor."""
    probe: Probe | None = None
    """The frozen probe, which scores every cue. None: nothing is frozen yet."""
    floor: float = -math.inf
    """No threshold is below it."""
    often: float = 1.0
    """Of "few": the probability of a trial, times this."""

    def wanted(self, seed: int, run: int, index: int | None, score: float | None, highest: float) -> bool:
        """Whether an exit is tried at a cue.

        Args:
            seed: Of the job.
            run: The run's number.
            index: The cue's number in its run. None: only a rule on fewer cues is asked there.
            score: The frozen probe's score. None: nothing scores.
            highest: The highest score of the run's earlier cues.
        """
        if self.at == "all" or index is None:
            return self.at == "all"
        if self.at == "few":
            return random.Random(f"trial {seed} {run} {index}").random() < few(index, self.often)
        return score is not None and score > max(self.floor, highest)


EVERYWHERE = Trials()
"""At every cue."""


def few(index: int, often: float = 1.0) -> float:
    """Probability of a trial at a cue of a fitting run: 1, 1/2, 1/3 ...; about the logarithm of all cues are tried.

    >>> [few(index) for index in range(4)], [few(index, 2) for index in range(4)]
    ([1.0, 0.5, 0.3333333333333333, 0.25], [1.0, 1.0, 0.6666666666666666, 0.5])
    """
    return min(1.0, often / (index + 1))


def often(fit: int) -> float:
    """How often few fitting runs are tried: as many labels as the default number of runs has, so far as they have cues.

    A trial costs a tenth of a run, so it is the cheaper label.
    """
    return max(1.0, FITTING_RUNS / fit)
