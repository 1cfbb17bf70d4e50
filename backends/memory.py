"""How much memory is free for this process, and how much it has taken."""

from __future__ import annotations

from pathlib import Path

_SYSTEM = Path("/proc/meminfo")
_PROCESS = Path("/proc/self/status")
_GROUP = Path("/sys/fs/cgroup")
_KIB = 1024


def free_memory() -> int | None:
    """Bytes that this process may still take, by the machine and by its control group. None: nobody says so here."""
    found = [free for free in (_of_system(), _of_group()) if free is not None]
    return min(found, default=None)


def own_memory() -> int:
    """Bytes that this process holds and shares with no file and no other process; 0 where the system doesn't say.

    Weights that are read from their file where they lie aren't among them: all processes share those.
    """
    try:
        lines = _PROCESS.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * _KIB for line in lines if line.startswith("RssAnon:")), 0)


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
