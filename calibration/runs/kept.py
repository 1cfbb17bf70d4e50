"""The files that a job of this process appends to: what Ctrl-C leaves for the same command to go on with."""

from __future__ import annotations

from pathlib import Path

OPENED: set[Path] = set()
"""The files, from when they are opened."""


def what_is_left() -> str:
    """What is left, for people; "" where nothing is."""
    if not OPENED:
        return ""
    return f" What was collected is kept in {', '.join(sorted(map(str, OPENED)))}: run the same command again to go on."
