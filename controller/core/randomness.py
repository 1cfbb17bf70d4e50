"""Keyed randomness: the uniforms of a run depend on (seed, run, position, purpose) and on nothing else."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .errors import ControllerError

BLOCK = 256
PER_POSITION = 4
"""One Philox4x64 counter gives four uniforms; a counter is a position."""

SAMPLE = 0
"""Purpose: the draw of the emitted token."""
DRAFT = 1
"""Purpose: draws that a drafter makes for itself."""
VERIFY = 2
"""Purpose: tests of drawn tokens."""
ORDER = 6
"""Purpose: which position a masked model writes next; 3 to 5 are the draws of a drafter of a drafter."""

_LIMIT = 1 << 64
_PURPOSES, _FAR = 3, 1 << 12


class Keys:
    """The uniforms of one run (Philox4x64-10, Salmon et al. 2011): a counter-based generator.

    A run that was drafted, rolled back or killed and resumed draws at position p exactly what a
    plain run draws there, and two runs or rows never share a stream.

    >>> a, b = Keys(seed=1, run=2), Keys(seed=1, run=2)
    >>> late = a.uniform(1000)
    >>> early = b.uniform(3); b.uniform(1000) == late
    True
    """

    def __init__(self, *, seed: int, run: int = 0) -> None:
        for name, value in (("seed", seed), ("run", run)):
            if not 0 <= value < _LIMIT:
                raise ControllerError(f"{name} is {value}; it must be between 0 and 2^64 - 1")
        self.seed = seed
        self.run = run
        self._blocks: dict[tuple[int, int, int], npt.NDArray[np.float64]] = {}

    def uniform(self, position: int, purpose: int = SAMPLE, index: int = 0) -> float:
        """Uniform number `index` (0, 1, 2 ...) in [0, 1) of a position."""
        where = (purpose, index // PER_POSITION, position // BLOCK)
        block = self._blocks.get(where)
        if block is None:
            counter = [where[2] * BLOCK, purpose, where[1], 0]
            philox = np.random.Philox(key=[self.seed, self.run], counter=counter)
            raw = philox.random_raw(BLOCK * PER_POSITION)
            block = self._blocks[where] = (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53
        return float(block[position % BLOCK * PER_POSITION + index % PER_POSITION])


class InnerKeys(Keys):
    """The keys of a drafter that drafts for a draft model: uniforms apart from the run's own, each used once."""

    def __init__(self, keys: Keys) -> None:
        self.seed = keys.seed
        self.run = keys.run
        self.root = 0
        """Length of the target's text. A place that is drafted for again after a longer text gets new uniforms."""
        self._keys = keys

    def uniform(self, position: int, purpose: int = SAMPLE, index: int = 0) -> float:
        return self._keys.uniform(self.root, _PURPOSES + purpose, (position - self.root) * _FAR + index)
