"""Ctrl-C while C code calls Python: the exception is thrown away there, the wish to stop is not."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import ctypes, os, signal, time
from reasonctl.calibration.cli.interrupt import interruptible

@ctypes.CFUNCTYPE(None)
def callback():
    os.kill(os.getpid(), signal.SIGINT)
    for _ in range(10000):
        pass

signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    with interruptible():
        callback()
        end = time.monotonic() + 5
        while time.monotonic() < end:
            pass
    print("went on")
except KeyboardInterrupt:
    print("stopped", signal.getsignal(signal.SIGINT).__name__)
"""


def test_a_ctrl_c_in_a_callback_is_not_lost():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["stopped", "stop_at_once"]
    assert done.stderr.strip() == "Stopping. Ctrl-C again stops at once."
