"""Waiting for processes and interrupting them."""

from __future__ import annotations

import signal
import time

# Ctrl-C


def hear_ctrl_c() -> None:
    """A test run in the background ignores SIGINT, and its children would too."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_for(truth, seconds: float) -> bool:
    """Whether `truth()` becomes true within so many seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not truth():
        time.sleep(0.02)
    return bool(truth())
