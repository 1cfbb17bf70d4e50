"""What an exit saves by its position, as the calibration runs' own exits say."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .table import Floats64, Ints

GROUP = 15
"""Fewest exits whose mean says what one exit saves."""


@dataclass(frozen=True, eq=False)
class ExitSavings:
    """Means over groups of neighbouring exits.

    Each exit counts in one group, so the mean over all exits is what they saved. A mean over those nearest to a
    position would count exits at the ends too little.
    """

    ends: Floats64
    """Shape (groups - 1,): half-way between the last position of each group but the last and the next group's first."""
    saved: Floats64
    """Shape (groups,): mean of the tokens that the group's exits saved."""

    @classmethod
    def of(cls, positions: Ints, saved: Ints) -> ExitSavings:
        """Groups of `GROUP` exits at least, in the order of their positions; equal positions stay together.

        Args:
            positions: Tokens generated before each exit's cue. Shape (exits,), at least one.
            saved: Cost in tokens of the full run, less that of the run with the exit. Shape (exits,).

        >>> found = ExitSavings.of(np.repeat([5, 9, 20], 15), np.repeat([70, 50, 30], 15))
        >>> [found.at(position) for position in (0, 5, 6, 8, 20, 99)]
        [70.0, 70.0, 70.0, 50.0, 30.0, 30.0]
        """
        places, group = np.unique(positions, return_inverse=True)
        counts, sums = np.bincount(group), np.bincount(group, weights=saved)
        starts, held, left = [0], 0, len(positions)
        for i, count in enumerate(counts):
            if held >= GROUP and left >= GROUP:  # fewer that are left over join the last group
                starts.append(i)
                held = 0
            held, left = held + int(count), left - int(count)
        means = np.add.reduceat(sums, starts) / np.add.reduceat(counts, starts)
        later = np.array(starts[1:], dtype=np.intp)
        return cls((places[later - 1] + places[later]) / 2, means)

    def at(self, position: int) -> float:
        """Tokens that an exit at this position saves, in the mean."""
        return float(self.saved[np.searchsorted(self.ends, position)])
