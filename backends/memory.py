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
    return _KIB * _numbers(_PROCESS).get("RssAnon:", 0)


def _of_system() -> int | None:
    found = _numbers(_SYSTEM).get("MemAvailable:")
    return None if found is None else _KIB * found


def _of_group() -> int | None:
    try:
        most, used = ((_GROUP / name).read_text(encoding="ascii").strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return None
    if most == "max":
        return None
    # As in MemAvailable: pages of files, such as weights that were read, give way.
    held = _numbers(_GROUP / "memory.stat")
    return max(0, int(most) - int(used) + held.get("active_file", 0) + held.get("inactive_file", 0))


def _numbers(file: Path) -> dict[str, int]:
    """The lines of a name and a number in one of the system's files; none where there is no such file."""
    try:
        lines = [line.split() for line in file.read_text(encoding="utf-8", errors="replace").splitlines()]
    except OSError:
        return {}
    return {line[0]: int(line[1]) for line in lines if len(line) > 1 and line[1].isdecimal()}
