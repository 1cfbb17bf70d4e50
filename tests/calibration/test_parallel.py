"""A calibration as a job: dying workers, two jobs on one output, clocks that jump, Ctrl-C, progress."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reasonctl.backends import extras
from reasonctl.calibration.cli.console import Console, Pace, span
from reasonctl.calibration.parallel.run_jobs import check_cluster, run_jobs
from reasonctl.calibration.runs.run_file import FORMAT, RunFile
from reasonctl.controller import ControllerError
from support.processes import hear_ctrl_c, wait_for
from support.run_records import run
from support.worker_jobs import deadly, fails


@pytest.mark.parametrize("deaths", [1, 2])
def test_a_killed_worker_costs_a_retry(tmp_path, deaths):
    warned: list[str] = []
    jobs = [(tmp_path, i, deaths) for i in range(12)]
    results = list(run_jobs(deadly, jobs, workers=2, warn=warned.append))
    assert [i for i, _ in results] == list(range(12))
    assert results[-1][1] == deaths == len(warned) and "worker process died" in warned[0]


def test_a_run_that_always_kills_its_worker_ends_the_job(tmp_path):
    got = []
    with pytest.raises(ControllerError, match="died 4 times on the same runs.*fewer --workers"):
        for i, _ in run_jobs(deadly, [(tmp_path, i, 99) for i in range(12)], workers=2, warn=lambda text: None):
            got.append(i)
    assert got == list(range(len(got))) and len(got) <= 5


def test_a_failing_run_is_no_dead_worker():
    with pytest.raises(ControllerError, match="3 is too much"):
        list(run_jobs(fails, [(i,) for i in range(6)], workers=2))


def test_a_wrong_cluster_is_refused_before_any_work(monkeypatch):
    for good in ("tcp://host:8786", "tls://host:8786", "local:2"):
        check_cluster(good)
    for wrong in ("host:8786", "local:0", "local", "local:two", "localhost", ""):
        with pytest.raises(ControllerError, match="tcp://host:8786"):
            check_cluster(wrong)
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(ControllerError, match=re.escape("pip install 'reasonctl[dask]'")):
        check_cluster("local:2")


# Two jobs on one output


def test_a_second_job_is_refused_and_damages_nothing(tmp_path):
    path = tmp_path / "runs.jsonl"
    first, second = RunFile(path, {"seed": 1}), RunFile(path, {"seed": 1})
    first.open(force=False)
    first.append(run())
    with path.open("ab") as file:
        file.write(b'{"half')  # the first job in the middle of a write
    before = path.read_bytes()
    for force in (False, True):
        with pytest.raises(ControllerError, match="another job is collecting into .*wait for it"):
            second.open(force=force)
        assert path.read_bytes() == before
    assert second.read() == [run()]  # reading is free, and a half line is none
    first.close()
    assert second.open(force=False) == 1 and path.read_bytes() == before[: -len(b'{"half')]
    assert [file.name for file in tmp_path.iterdir()] == ["runs.jsonl"]


HOLDER = """
import sys, time
from pathlib import Path
from reasonctl.calibration.runs.run_file import RunFile
file = RunFile(Path(sys.argv[1]), {})
file.open(force=False)
print("held", flush=True)
time.sleep(60)
"""


def test_the_lock_of_a_killed_job_is_gone_with_it(tmp_path):
    path = tmp_path / "runs.jsonl"
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True) as job:
        assert job.stdout is not None and job.stdout.readline() == "held\n"
        with pytest.raises(ControllerError, match="another job"):
            RunFile(path, {}).open(force=False)
        job.kill()
    assert RunFile(path, {}).open(force=False) == 0


def test_a_failed_opening_keeps_no_lock(tmp_path):
    path = tmp_path / "runs.jsonl"
    RunFile(path, {"seed": 1}).open(force=False)
    other = RunFile(path, {"seed": 2})
    with pytest.raises(ControllerError, match="another seed"):
        other.open(force=False)
    assert RunFile(path, {"seed": 1}).open(force=False) == 0
    assert other.open(force=True) == 0


def test_a_job_killed_in_its_first_write_starts_over(tmp_path):
    path = tmp_path / "runs.jsonl"
    for torn in (b"", b'{"fo', b'{"format":', b'{"format":1,"settings":{"se'):
        path.write_bytes(torn)
        file = RunFile(path, {"seed": 1})
        assert file.open(force=False) == 0
        assert path.read_bytes() == b'{"format":%d,"settings":{"seed":1}}\n' % FORMAT
        file.close()


SLEEPER = """
import sys, time
from reasonctl.calibration.cli.interrupt import interruptible
from reasonctl.calibration.parallel.run_jobs import run_jobs
def work():
    try:
        print("working", flush=True)
        for _ in run_jobs(time.sleep, [(60,)] * 4, workers=2): pass
    except KeyboardInterrupt:
        print("cleaning", flush=True)
        if "slow" in sys.argv: time.sleep(60)
        raise
try:
    with interruptible(): work()
except KeyboardInterrupt:
    sys.exit(130)
"""


def sleeper(*arguments: str) -> subprocess.Popen[str]:
    """A job of two sleeping workers, in a group of its own as a terminal would start it."""
    job = subprocess.Popen(
        [sys.executable, "-c", SLEEPER, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=hear_ctrl_c,
    )
    assert job.stdout is not None and job.stdout.readline() == "working\n"
    return job


def group(leader: int) -> list[int]:
    """Living processes of a process group, joblib's own tracker left out: it ends by itself."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, pgrp = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
            words = (folder / "cmdline").read_bytes()
        except OSError:
            continue  # it ended meanwhile
        if int(pgrp) == leader and state != "Z" and b"resource_tracker" not in words:
            found.append(int(folder.name))
    return found


@pytest.mark.parametrize("workers_started", [False, True])
def test_ctrl_c_stops_in_an_orderly_way_and_is_heard_by_the_job_alone(workers_started):
    job = sleeper()
    if workers_started:
        assert wait_for(lambda: len(group(job.pid)) >= 3, 20)
        time.sleep(0.5)
    os.killpg(job.pid, signal.SIGINT)
    out, err = job.communicate(timeout=20)
    assert job.returncode == 130 and out == "cleaning\n"
    assert err.strip() == "Stopping. Ctrl-C again stops at once."  # nothing from the workers
    assert wait_for(lambda: not group(job.pid), 3)


def test_ctrl_c_twice_stops_at_once():
    job = sleeper("slow")
    os.killpg(job.pid, signal.SIGINT)
    assert job.stdout is not None and job.stdout.readline() == "cleaning\n"
    start = time.monotonic()
    os.killpg(job.pid, signal.SIGINT)
    _, err = job.communicate(timeout=20)
    assert job.returncode == 130 and time.monotonic() - start < 5
    assert "Stopped at once" in err and "Traceback" not in err
    assert wait_for(lambda: not group(job.pid), 3)


# Progress


class Clock:
    def __init__(self, *steps: float) -> None:
        self.now, self.steps = 0.0, list(steps)

    def __call__(self) -> float:
        return self.now


def paced(seconds: list[float], done: int = 0) -> Pace:
    clock = Clock()
    pace = Pace(clock)
    pace.mark(done)
    for i, step in enumerate(seconds, start=done + 1):
        clock.now += step
        pace.mark(i)
    return pace


def test_pace_of_an_even_job_and_of_a_resumed_one():
    assert paced([]).seconds_per_run() is None and paced([]).message(9) == ""
    assert paced([2.0] * 3).seconds_per_run() == 2.0
    assert paced([0.5] * 30, done=300).seconds_per_run() == 0.5
    assert paced([0.5] * 30, done=300).message(340) == ", 2.0 runs/s, 0:00:05 left"
    assert paced([30.0] * 2).message(4) == ", 2.0 runs/min, 0:01:00 left"
    assert paced([0.5] * 4).message(4) == ", 2.0 runs/s"


def test_pace_is_robust():
    """A laptop that slept for an hour, a model that took minutes to load, workers that finish in bursts."""
    slept = [1.0] * 40
    slept[25] = 3600.0
    assert paced(slept).seconds_per_run() == 1.0
    assert paced([300.0] + [1.0] * 40).seconds_per_run() == 1.0
    bursts = [4.0, 0.0, 0.0, 0.0] * 20
    assert paced(bursts).seconds_per_run() == pytest.approx(1.0, rel=0.05)
    assert paced([10.0] * 200 + [1.0] * 100).seconds_per_run() == 1.0  # what counts is now


def test_progress_says_rate_and_time_left(capfd, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    monkeypatch.setattr(time, "time", lambda: -1e9 * clock.now)  # no wall clock in it
    with Console(as_json=False).progress("collecting") as progress:
        for done in range(10, 41):
            progress(done, 40)
            clock.now += 2.0
    lines = capfd.readouterr().err.splitlines()
    assert lines[0] == "collecting: 10 of 40"
    assert lines[1] == "collecting: 16 of 40, 30.0 runs/min, 0:00:48 left"
    assert lines[-1] == "collecting: 40 of 40, 30.0 runs/min"
    assert [span(s) for s in (0, 61, 3600 * 26 + 59.6)] == ["0:00:00", "0:01:01", "26:01:00"]
