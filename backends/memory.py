"""Refuses caches for which there is no memory, before anything is computed: a process that runs out of it is killed."""

from __future__ import annotations

from pathlib import Path

from reasonctl.controller import ControllerError

_SYSTEM = Path("/proc/meminfo")
_GROUP = Path("/sys/fs/cgroup")
_KIB = 1024


def free_memory() -> int | None:
    """Bytes that this process may still take, by the machine and by its control group. None: nobody says so here."""
    found = [free for free in (_of_system(), _of_group()) if free is not None]
    return min(found, default=None)


def check_cache(bytes_needed: int, free: int | None, what: str) -> None:
    """Raise ControllerError if a cache is larger than the memory that is free.

    Args:
        bytes_needed: The most that the cache may take.
        free: Free bytes. None: unknown, and nothing is refused.
        what: What the cache is for.
    """
    if free is not None and bytes_needed > free:
        raise ControllerError(
            f"{what} may take {bytes_needed / 1e9:.1f} GB of cache, and {free / 1e9:.1f} GB of memory are free; give a "
            "smaller batch, or lower max_new_tokens"
        )


def _of_system() -> int | None:
    try:
        lines = _SYSTEM.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * _KIB for line in lines if line.startswith("MemAvailable:")), None)


def _of_group() -> int | None:
    try:
        most, used = ((_GROUP / name).read_text(encoding="ascii").strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return None
    return None if most == "max" else max(0, int(most) - int(used))
