"""What a user asks an exit rule to keep to, as one value. `risk/threshold.py` computes the threshold that keeps it."""

from __future__ import annotations

from dataclasses import dataclass

from .risk.table import Table
from .risk.threshold import Grid, Mode, Threshold, check_request, choose_threshold


@dataclass(frozen=True)
class Promise:
    """A risk and everything that says what it is a risk of; checked when it is made.

    Raises:
        ControllerError: No procedure can take such a mode, risk, confidence or risk of giving up.

    >>> Promise(risk=0.05, give_up=0.02).bound
    0.07
    """

    mode: Mode = "harm"
    """Which failure the risk bounds; `threshold.MEANS` has a sentence for each."""
    risk: float = 0.05
    """Largest probability of a failure, per run."""
    confidence: float | None = 0.9
    """Probability, over the calibration runs drawn, that the risk holds. None: the risk holds on average over them."""
    signal: str = "hidden"
    """The signal that is compared with the threshold: one of SIGNALS, or a plugin's."""
    domain: str | None = None
    """The promise is for problems of this domain, and made from its runs. None: all of them."""
    give_up: float | None = None
    """Largest probability, per run, of giving up on a run that would have been right. None: the rule never gives up."""

    def __post_init__(self) -> None:
        check_request(self.mode, self.risk, self.confidence)
        if self.give_up is not None:
            check_request("harm", self.give_up, self.confidence)

    @property
    def bound(self) -> float:
        """Largest share of failing runs that the promise allows: the risk, and that of giving up where there is one."""
        return self.risk + (self.give_up or 0.0)

    def threshold(self, table: Table, grid: Grid) -> Threshold:
        """The threshold that these calibration runs allow for the promise; see `choose_threshold`."""
        return choose_threshold(table, grid, self.mode, self.risk, self.confidence)
