"""What an exit saves by its position, as the calibration runs' own exits say."""

from __future__ import annotations

from typing import NamedTuple

from .table import Ints


class SavingLine(NamedTuple):
    """What an exit saves, by its position."""

    first: int
    """Position of the earliest exit; an earlier one saves as much."""
    last: int
    """Position of the latest one; a later one saves as much."""
    position: float
    """Their mean position."""
    saved: float
    """Mean of the tokens saved."""
    slope: float
    """Tokens saved more for each token of the position."""

    @classmethod
    def through(cls, positions: Ints, saved: Ints) -> SavingLine:
        """The line of least squares.

        Args:
            positions: Tokens generated before each exit's cue. Shape (exits,), at least one.
            saved: Cost in tokens of the full run, less that of the run with the exit. Shape (exits,).
        """
        middle, mean = float(positions.mean()), float(saved.mean())
        away = positions - middle
        slope = float((away * saved).sum() / (away**2).sum()) if away.any() else 0.0
        return cls(int(positions.min()), int(positions.max()), middle, mean, slope)

    def at(self, position: int) -> float:
        """Tokens that an exit at this position saves, in the mean."""
        return self.saved + self.slope * (min(max(position, self.first), self.last) - self.position)
