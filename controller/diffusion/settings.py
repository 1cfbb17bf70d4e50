"""How a canvas is unmasked, as one value that is checked when it is made."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..core.errors import ControllerError
from .commit import Commit
from .orders import Order, schedule


@dataclass(frozen=True)
class Unmasking:
    """The settings of a masked model's run.

    Raises:
        ControllerError: They contradict each other.
    """

    length: int
    """Positions that are written: the longest answer."""
    steps: int | None = None
    """Forwards that write them all, remasking apart; None: one a position. An entropy bound needs no more than these."""
    block: int | None = None
    """Positions of a block; blocks are finished from left to right. None: one block."""
    order: Order = field(default_factory=Order)
    """Which positions of a block are written first."""
    remask: float = 0.0
    """Share of a full block's positions that are masked again and written anew, those of least confidence first."""
    cache: bool = False
    """Hold the keys of finished blocks instead of computing them again; logits then differ, see `PrefixCache`."""
    commit: Commit | None = None
    """When the whole answer is committed at once; None: never."""

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ControllerError(f"length is {self.length}; an answer has at least one position")
        if self.block is not None and not 1 <= self.block <= self.length:
            raise ControllerError(f"block is {self.block}; it must be from 1 to the length of {self.length}")
        if self.steps is not None and not self.blocks <= self.steps <= self.length:
            raise ControllerError(
                f"steps is {self.steps}; {self.length} positions in {self.blocks} blocks take from {self.blocks} to "
                f"{self.length}"
            )
        if not 0 <= self.remask < 1:
            raise ControllerError(f"remask is {self.remask}; it is a share of a block, at least 0 and below 1")

    @property
    def blocks(self) -> int:
        """Number of blocks; the last may be shorter."""
        return -(-self.length // (self.block or self.length))

    def plan(self) -> list[tuple[int, int, list[int]]]:
        """For each block its first position, the one after its last, and how many positions each step writes.

        The steps are dealt to the blocks evenly, the first get one more.
        """
        size, blocks = self.block or self.length, self.blocks
        ends = [min((at + 1) * size, self.length) for at in range(blocks)]
        spans = [(at * size, end) for at, end in enumerate(ends)]
        if self.steps is None:
            return [(first, end, [1] * (end - first)) for first, end in spans]
        shares = schedule(self.steps, blocks)
        return [
            (first, end, [n for n in schedule(end - first, share) if n])
            for (first, end), share in zip(spans, shares, strict=True)
        ]
