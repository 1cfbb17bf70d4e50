"""Refuses runs for which there is no memory, before anything is computed: a process that runs out of it is killed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from .decode import Need
from .errors import ControllerError


def check_cache(
    bytes_needed: int,
    free: int | None,
    what: str,
    remedy: str = "run fewer at once (a smaller batch, a lower at_once), or lower max_new_tokens",
) -> None:
    """Raise ControllerError if a cache is larger than the memory that is free.

    Args:
        bytes_needed: The most that the cache may take.
        free: Free bytes. None: unknown, and nothing is refused.
        what: What the cache is for, and the verb: "a batch of 8 runs may".
        remedy: What to do about it.
    """
    if free is not None and bytes_needed > free:
        raise ControllerError(
            f"{what} take {bytes_needed / 1e9:.1f} GB of cache, and {free / 1e9:.1f} GB of memory are free; {remedy}"
        )


def check_memory(needs: Sequence[Need], at_once: int, *, processes: int = 0, besides: int = 0) -> None:
    """Raise ControllerError if runs may take more memory than is free. A single run in this process isn't asked about.

    Args:
        needs: What the longest of the runs may take: on its own engine first, then on a draft model's.
        at_once: Most runs under way in a process.
        processes: Further processes that make such runs, each with models of its own. 0: this one makes them, with the
            models that it has.
        besides: Bytes that each process takes besides, such as for a model that isn't loaded yet.
    """
    if not needs or (at_once == 1 and not processes):
        return
    asked = [(need.engine, need.engine.memory(at_once * need.sessions, need.tokens)) for need in needs]
    each, free = Counter({asked[0][1].place: besides}), {memory.place: memory.free for _, memory in asked}
    for _, memory in asked:
        each[memory.place] += memory.caches
    if processes:
        for engine, memory in dict(asked).items():
            each[memory.place] += engine.loaded_bytes
    for place, taken in each.items():
        _check(taken, free[place], needs[0], at_once, processes)


def _check(each: int, free: int | None, need: Need, at_once: int, processes: int) -> None:
    """Check one place's memory; `each`: bytes that a process may take of it."""
    batch = f"a batch of {at_once * need.sessions} sequences of up to {need.tokens} tokens"
    if not processes:
        check_cache(each, free, f"{batch} may")
    elif free is not None and processes * each > free:
        raise ControllerError(
            f"{processes} worker processes, each with its own model and {batch}, may take "
            f"{processes * each / 1e9:.1f} GB, and {free / 1e9:.1f} GB of memory are free; give fewer --workers, "
            "a smaller batch, or lower max_new_tokens"
        )
