"""What tests run in workers. It imports little, so that a new worker is quick to start."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from reasonctl.controller import ControllerError

busy = 0


def deadly(folder: Path, i: int, deaths: int) -> tuple[int, int]:
    """Job 5 kills its worker so many times, as the system does when memory runs out."""
    died = len(list(folder.iterdir()))
    if i == 5 and died < deaths:
        (folder / f"death{died}").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return i, died


def fails(i: int) -> int:
    """Raises on one of its jobs."""
    if i == 3:
        raise ControllerError("3 is too much")
    return i


def lonely(i: int) -> tuple[int, int]:
    """The worker's process, and how many runs are in it."""
    global busy
    busy += 1
    time.sleep(0.02)
    seen, busy = busy, busy - 1
    return os.getpid(), seen
