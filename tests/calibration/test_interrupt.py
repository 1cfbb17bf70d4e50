"""Ctrl-C is heard while C code calls Python, and what is said of it is true of the command that it stopped."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing

import pytest

from reasonctl.calibration.runs import kept
from reasonctl.calibration.runs.sampled import SamplesFile
from support.ctl import ctl

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


@pytest.mark.parametrize("temporary", [None, True, False])
def test_what_can_be_gone_on_with_is_named_and_nothing_else(tmp_path, capfd, monkeypatch, temporary):
    def stopped(*_: object, **__: object) -> None:
        if temporary is not None:
            file = SamplesFile(tmp_path / "s.jsonl", {"sets": []})
            file.temporary = temporary
            with closing(file):
                file.open(force=False)
        raise KeyboardInterrupt

    kept.OPENED.clear()
    monkeypatch.setattr("reasonctl.calibration.cli.run.run_any", stopped)
    code, _, err = ctl(capfd, "run", "tiny", "52 a+3", "--probe", "none")
    goes_on = f" What was collected is kept in {tmp_path / 's.jsonl'}: run the same command again to go on."
    assert (code, err.strip()) == (130, f"Interrupted.{goes_on if temporary is False else ''}")
    kept.OPENED.clear()
