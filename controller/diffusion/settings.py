"""How a canvas is unmasked, as one value that is checked when it is made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

from ..core.errors import ControllerError
from ..core.text_form import call_in
from .commit import Commit, Signal
from .orders import NAMES, Name, Order, schedule


@dataclass(frozen=True)
class Unmasking:
    """The settings of a masked model's run.

    Raises:
        ControllerError: They contradict each other.
    """

    length: int
    """Positions that are written: the longest answer."""
    steps: int | None = None
    """Forwards that write all, remasking apart; None: one a position. With an entropy bound: the most."""
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


_KEYS = ("bound", "steps", "block", "temperature", "remask", "cache", "commit")


def parse_unmasking(text: str, length: int, commit: Commit | None = None, *, signal: Signal | None = None) -> Unmasking:
    """The settings by their text form: an order, with what else is set.

    Args:
        text: `ORDER` or `ORDER(key=value,...)`; keys: bound, steps, block, temperature (of the order), remask, cache,
            commit (a threshold of the signal).
        length: Positions that are written.
        commit: As in `Unmasking`, where the text sets none.
        signal: What a commit of the text compares with its threshold.

    Raises:
        ControllerError: It can't be read, or the settings contradict each other.

    >>> found = parse_unmasking("entropy(steps=4,block=8,temperature=0.3)", 16)
    >>> found.steps, found.block, found.order.temperature
    (4, 8, 0.3)
    """
    name, arguments = call_in(text, "order", NAMES)
    given: dict[str, Any] = {}
    for key, value in arguments or ():
        at = key or "bound"
        if at not in _KEYS or at in given:
            raise ControllerError(f"order {text!r:.60} sets {at!r:.40}; it may set each of {', '.join(_KEYS)} once")
        kinds = (bool,) if at == "cache" else (int,) if at in ("steps", "block") else (int, float)
        if not isinstance(value, kinds) or (isinstance(value, bool) and at != "cache"):
            raise ControllerError(f"order {text!r:.60}: {at} is {value!r:.40}, which is no {kinds[-1].__name__}")
        given[at] = value
    order = Order(cast(Name, name), given.pop("bound", None), given.pop("temperature", 0.0))
    if "commit" in given:
        if signal is None or commit is not None:
            raise ControllerError(
                f"order {text!r:.60} commits at {given['commit']}, which is calibrated here; leave it out"
            )
        commit = Commit(signal, float(given.pop("commit")))
    return Unmasking(length, order=order, commit=commit, **given)
