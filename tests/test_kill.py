"""SIGKILL during `ctl calibrate`, then the same command again: the file is the one of a job that nobody killed."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
COMMAND = [
    sys.executable, "-c", "from reasonctl.calibration.cli import main; main()",
    "calibrate", "tiny", "--tasks", "tiny", "-n", "100", "--seed", "5", "--workers", "2", "--out",
]  # fmt: skip


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_five_kills_leave_no_trace(tmp_path: Path) -> None:
    whole = tmp_path / "whole.safetensors"
    start = time.monotonic()
    subprocess.run([*COMMAND, str(whole)], check=True, capture_output=True)
    takes = time.monotonic() - start
    killed = tmp_path / "killed.safetensors"
    rng, kills, held = random.Random(3), 0, []
    while kills < 5:
        job = subprocess.Popen([*COMMAND, str(killed)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(0.2, 0.35) * takes)
        if job.poll() is not None:
            break
        os.kill(job.pid, signal.SIGKILL)
        job.wait()
        kills += 1
        runs = killed.with_name(killed.name + ".runs.jsonl")
        held.append(runs.read_bytes().count(b"\n") if runs.exists() else 0)
    subprocess.run([*COMMAND, str(killed)], check=True, capture_output=True)
    print(f"{kills} kills; lines in the file of runs after each: {held}")
    assert kills == 5 or (kills >= 3 and killed.exists())
    assert held == sorted(held) and held[-1] > 1
    assert sha(killed) == sha(whole)
    assert sha(Path(f"{killed}.runs.jsonl")) == sha(Path(f"{whole}.runs.jsonl"))


def test_ctrl_c_leaves_a_resumable_state(tmp_path: Path) -> None:
    out = tmp_path / "p.safetensors"
    job = subprocess.Popen([*COMMAND, str(out)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    runs = out.with_name(out.name + ".runs.jsonl")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and (not runs.exists() or runs.read_bytes().count(b"\n") < 5):
        time.sleep(0.05)
    job.send_signal(signal.SIGINT)
    _, err = job.communicate(timeout=60)
    assert job.returncode == 130, err
    assert "run the same command again" in err and "Traceback" not in err
    held = runs.read_bytes()
    again = subprocess.run([*COMMAND, str(out)], check=True, capture_output=True, text=True)
    assert "resuming: " in again.stdout
    assert runs.read_bytes().startswith(held[: held.rfind(b"\n") + 1])
