"""How many processors there are for this process, and how many threads or processes make sense on them."""

from __future__ import annotations

import os

from reasonctl.controller import ControllerError

PER_CORE = 4
"""Most threads, and most processes, for each core: with many more they wait for one another and nothing ends."""


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_cores(what: str, number: int | None) -> None:
    """Check a number of threads or processes, which `what` names; None is the library's choice.

    Raises:
        ControllerError: It is below 1, or above `PER_CORE` for each core.
    """
    here = cores()
    if number is not None and not 1 <= number <= PER_CORE * here:
        has = f"{here} core{'' if here == 1 else 's'}"
        raise ControllerError(
            f"{what} is {number}; with {has} it must be from 1 to {PER_CORE * here}, at best the number of cores"
        )
