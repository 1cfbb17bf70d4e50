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


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def children(parent: int) -> list[int]:
    """Python processes below a process, from /proc."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            words = (folder / "cmdline").read_bytes()
        except OSError:
            continue  # it ended meanwhile
        if int(fields[1]) == parent and b"loky" in words and b"resource_tracker" not in words:
            found.append(int(folder.name))
    return found


def alive(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def kill_after(command: list[str], runs: Path, more: int, delay: float) -> None:
    """SIGKILL once so many more runs are written, a random moment later."""
    job = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    goal = lines(runs) + more
    while job.poll() is None and lines(runs) < goal:
        time.sleep(0.01)
    time.sleep(delay)
    assert job.poll() is None, "the job ended before it was killed"
    workers = children(job.pid)
    assert len(workers) >= 2
    os.kill(job.pid, signal.SIGKILL)
    job.wait()
    time.sleep(2.5)
    assert not [pid for pid in workers if alive(pid)], "workers outlive a killed job"


def test_five_kills_leave_no_trace(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole.safetensors", tmp_path / "killed.safetensors"
    subprocess.run([*COMMAND, str(whole)], check=True, capture_output=True)
    runs = killed.with_name(killed.name + ".runs.jsonl")
    rng, held = random.Random(3), []
    for _ in range(5):
        kill_after([*COMMAND, str(killed)], runs, rng.randrange(2, 15), rng.uniform(0, 0.2))
        held.append(lines(runs))
    subprocess.run([*COMMAND, str(killed)], check=True, capture_output=True)
    print(f"lines in the file of runs after each kill: {held}")
    assert sha(killed) == sha(whole)
    assert sha(runs) == sha(Path(f"{whole}.runs.jsonl"))


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
