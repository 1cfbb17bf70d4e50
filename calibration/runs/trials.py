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
            return random.Random(f"trial {seed} {run} {index}").random() < few(index)
        return score is not None and score > max(self.floor, highest)


EVERYWHERE = Trials()
"""At every cue."""


def few(index: int) -> float:
    """Probability of a trial at a cue of a fitting run: 1, 1/2, 1/3 ...; about the logarithm of all cues are tried."""
    return 1.0 / (index + 1)
