"""What `ctl calibrate` survives: SIGKILL at random moments, dead workers, Ctrl-C, a full disk, a second job.

In the end the files are those of a job that nobody disturbed, byte for byte.
"""

from __future__ import annotations

import hashlib
import os
import random
import resource
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from support.processes import hear_ctrl_c, wait_for

pytestmark = pytest.mark.slow
MANY = ["-n", "240"]
COMMAND = [
    sys.executable,
    "-c",
    "from reasonctl.calibration.cli.main import main; main()",
    "calibrate",
    "tiny",
    "--tasks",
    "tiny",
    "-n",
    "60",
    "--fit",
    "30",
    "--seed",
    "5",
    "--max-new-tokens",
    "300",
]
PAIR = ["--workers", "2"]
ONE = ["--workers", "1"]
DASK = ["--dask", "local:2"]


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def runs_of(out: Path) -> Path:
    return out.with_name(out.name + ".runs.jsonl")


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def start(out: Path, *more: str, **how) -> subprocess.Popen[str]:
    """A job in a session of its own, as a terminal would start it: Ctrl-C reaches its workers too."""
    return subprocess.Popen(
        [*COMMAND, "--out", str(out), *(more or PAIR)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        **{"preexec_fn": hear_ctrl_c, **how},
    )


def finish(out: Path, *more: str) -> str:
    job = start(out, *more)
    told, _ = job.communicate(timeout=600)
    assert job.returncode == 0, told
    return told


def workers(job: subprocess.Popen[str]) -> list[int]:
    """Living processes of the job's session but itself and the trackers, which end by themselves."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            words = (folder / "cmdline").read_bytes()
        except OSError:
            continue  # it ended meanwhile
        if int(fields[3]) == job.pid != int(folder.name) and fields[0] != "Z" and b"resource_tracker" not in words:
            found.append(int(folder.name))
    return found


def after(job: subprocess.Popen[str], out: Path, more: int) -> None:
    """Wait until so many more runs are written, with all workers at work."""
    goal = lines(runs_of(out)) + more
    assert wait_for(lambda: job.poll() is not None or lines(runs_of(out)) >= goal, 300)
    assert job.poll() is None, "the job ended before it was disturbed"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """What a job leaves that nobody disturbs."""
    out = tmp_path_factory.mktemp("whole") / "p.safetensors"
    finish(out)
    return out


def same(out: Path, whole: Path) -> bool:
    return sha(out) == sha(whole) and sha(runs_of(out)) == sha(runs_of(whole))


def disturbed(out: Path, how: list[str], kills: int, rng: random.Random, most: int, pause: float) -> list[int]:
    """Kill a job again and again, at moments from the start of the process to late in the collecting.

    Args:
        out: The job's probe file.
        how: Its arguments.
        kills: How often.
        rng: Draws the moments.
        most: Lines that are waited for are fewer.
        pause: Longest time between them and a kill, in seconds.

    Returns:
        The lines in the file of runs after each kill.
    """
    held = []
    for kill in range(kills):
        job = start(out, *how)
        if kill % 4 == 0:
            time.sleep(rng.uniform(0, 3))  # imports, loading, the estimate, workers on their way
        else:
            after(job, out, rng.randrange(1, most))
            time.sleep(rng.uniform(0, pause))
        assert job.poll() is None, "the job ended before it was killed"
        os.kill(job.pid, signal.SIGKILL)
        job.communicate()
        assert wait_for(partial(lambda ended: not workers(ended), job), 5), "workers outlive a killed job"
        held.append(lines(runs_of(out)))
    print(f"lines in the file of runs after each kill: {held}")
    return held


def test_twenty_kills_leave_no_trace(tmp_path: Path) -> None:
    """The moments are seeded; the last run finishes the job."""
    whole, out = tmp_path / "whole.safetensors", tmp_path / "p.safetensors"
    finish(whole, *PAIR, *MANY)
    held = disturbed(out, [*PAIR, *MANY], 20, random.Random(3), 6, 0.3)
    assert held == sorted(held) and held[-1] <= 240
    assert "resuming: " in finish(out, *PAIR, *MANY)
    assert same(out, whole)


def test_ten_kills_leave_no_trace_of_a_job_in_batches(tmp_path: Path) -> None:
    """What a window had under way is made again with the same neighbours; a kill may come while a window is written."""
    whole, out = tmp_path / "whole.safetensors", tmp_path / "p.safetensors"
    together = [*PAIR, *MANY, "--fit", "40", "--batch", "16"]
    finish(whole, *together)
    held = disturbed(out, together, 10, random.Random(16), 24, 0.02)
    assert held == sorted(held) and held[-1] <= 240
    # Without --batch the job goes on in its own.
    assert "resuming: " in finish(out, *together[:-2])
    assert same(out, whole)


def test_killed_workers_cost_a_retry_each(tmp_path: Path, whole: Path) -> None:
    out = tmp_path / "p.safetensors"
    job = start(out)
    for _ in range(2):
        after(job, out, 10)
        os.kill(random.Random(1).choice(workers(job)), signal.SIGKILL)
    told, _ = job.communicate(timeout=600)
    assert job.returncode == 0 and told.count("warning: a worker process died") == 2, told
    assert same(out, whole)


@pytest.mark.parametrize("how", [PAIR, ONE, DASK], ids=" ".join)
@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_leaves_a_resumable_state(tmp_path: Path, whole: Path, how: list[str], times: int) -> None:
    out = tmp_path / "p.safetensors"
    job = start(out, *how)
    after(job, out, 5)
    for _ in range(times):
        os.killpg(job.pid, signal.SIGINT)
        time.sleep(0.05)
    told, _ = job.communicate(timeout=60)
    # A second Ctrl-C may come when Python has already let go of its handlers; a shell says 130 then, too.
    assert job.returncode in (130, -signal.SIGINT), told
    assert "run the same command again" in told and "Traceback" not in told, told
    assert wait_for(lambda: not workers(job), 5), "workers outlive the job"
    held = runs_of(out).read_bytes()
    assert held.endswith(b"\n") and runs_of(whole).read_bytes().startswith(held)
    assert "resuming: " in finish(out)
    assert same(out, whole)


def test_a_second_job_on_the_same_output_is_refused(tmp_path: Path, whole: Path) -> None:
    out = tmp_path / "p.safetensors"
    job = start(out)
    after(job, out, 5)
    for more in ([], ["--force"]):
        second = start(out, *PAIR, *more)
        told, _ = second.communicate(timeout=120)
        errors = [line for line in told.splitlines() if line.startswith("Error: ")]
        assert second.returncode == 2 and len(errors) == 1 and "another job is collecting into" in errors[0], told
        assert "Traceback" not in told
    assert job.wait(600) == 0
    assert same(out, whole)


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path: Path, whole: Path) -> None:
    """A limit on the size of files stands in for the disk: the write that crosses it is cut short, then refused."""
    out, limit = tmp_path / "p.safetensors", runs_of(whole).stat().st_size // 3

    def small() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    job = start(out, *ONE, preexec_fn=small)
    told, _ = job.communicate(timeout=600)
    assert job.returncode == 2 and "finished runs are safe" in told and "Traceback" not in told, told
    held = runs_of(out).read_bytes()
    assert held.endswith(b"\n") and runs_of(whole).read_bytes().startswith(held)
    finish(out)
    assert same(out, whole)
