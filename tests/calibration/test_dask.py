"""Collecting over machines: a real dask cluster of two workers, here; what it writes is what one process writes."""

from __future__ import annotations

import hashlib
import logging
import os
import signal
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import dask
import pytest
from distributed import LocalCluster

from reasonctl.calibration.cli.main import main
from reasonctl.calibration.parallel import dask as cluster_module
from reasonctl.calibration.parallel.run_jobs import run_jobs
from reasonctl.calibration.runs.collect import collect
from reasonctl.calibration.runs.run_file import RunFile
from reasonctl.calibration.tasks.graders import NUMBER
from reasonctl.calibration.tasks.sources import load_task
from reasonctl.controller import ControllerError
from support.recipes import RECIPE
from support.worker_jobs import deadly, fails, lonely

PROBLEMS = load_task("tiny").problems(6, stream=6)


def local(**more: Any) -> LocalCluster:
    """A cluster on which a run may kill one worker, but not two."""
    with dask.config.set({"distributed.scheduler.allowed-failures": 1}):
        return LocalCluster(memory_limit=0, dashboard_address=":0", silence_logs=logging.CRITICAL, **more)


@pytest.fixture(scope="module")
def cluster():
    with local(n_workers=2, threads_per_worker=1) as cluster:
        yield cluster


def collected(path: Path, workers: int | str, seen=lambda done: None) -> bytes:
    with closing(RunFile(path, {})) as file:
        done = file.open(force=False)
        collect(RECIPE, PROBLEMS, NUMBER, file, done=done, workers=workers, progress=lambda done, _: seen(done))
    return path.read_bytes()


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> bytes:
    """What one process writes."""
    return collected(tmp_path_factory.mktemp("alone") / "runs", 1)


def test_two_machines_write_what_one_process_writes(cluster, alone, tmp_path):
    assert collected(tmp_path / "runs", cluster.scheduler_address) == alone


def test_a_killed_worker_costs_a_retry(cluster, alone, tmp_path):
    before = {name: worker.pid for name, worker in cluster.workers.items()}

    def kill(done: int) -> None:
        if done == 1:
            os.kill(before[0], signal.SIGKILL)

    assert collected(tmp_path / "runs", cluster.scheduler_address, kill) == alone
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and cluster.workers[0].pid in (None, before[0]):
        time.sleep(0.05)
    assert cluster.workers[0].pid != before[0]  # it was killed indeed, and another one took its place


@pytest.mark.slow
def test_a_run_that_always_kills_its_worker_ends_the_job(cluster, tmp_path):
    with pytest.raises(ControllerError, match="one run ended 2 dask workers"):
        list(run_jobs(deadly, [(tmp_path, i, 99) for i in range(8)], workers=cluster.scheduler_address))


def test_a_failing_run_says_why(cluster):
    with pytest.raises(ControllerError, match="3 is too much"):
        list(run_jobs(fails, [(i,) for i in range(6)], workers=cluster.scheduler_address))


def test_another_version_is_refused(cluster, monkeypatch):
    monkeypatch.setattr(cluster_module, "version", lambda name: "9.9")
    with pytest.raises(ControllerError, match="has reasonctl .*, this machine has 9.9; install the same"):
        list(run_jobs(fails, [(2,)], workers=cluster.scheduler_address))


def test_a_worker_without_the_package_is_refused_and_lives_on(cluster, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(cluster_module, "PACKAGE", "no-such-package")
        patch.setattr(cluster_module, "version", lambda name: "9.9")
        with pytest.raises(ControllerError, match="a dask worker has no no-such-package; install 9.9"):
            list(run_jobs(fails, [(2,)], workers=cluster.scheduler_address))
    assert list(run_jobs(fails, [(2,)], workers=cluster.scheduler_address)) == [2]


@pytest.mark.parametrize("threads", [1, 3])
def test_one_worker_does_the_runs_there_and_one_at_a_time(threads):
    with local(n_workers=1, threads_per_worker=threads) as cluster:
        results = list(run_jobs(lonely, [(i,) for i in range(9)], workers=cluster.scheduler_address))
    assert {seen for _, seen in results} == {1} and os.getpid() not in {pid for pid, _ in results}


def test_nobody_there_is_one_line(monkeypatch):
    monkeypatch.setattr(cluster_module, "SECONDS", 0.5)
    with pytest.raises(ControllerError, match="no dask scheduler answers at tcp://127.0.0.1:9"):
        list(run_jobs(fails, [(0,)], workers="tcp://127.0.0.1:9"))
    with local(n_workers=0) as cluster, pytest.raises(ControllerError, match="no worker is at .* dask worker tcp://"):
        list(run_jobs(fails, [(0,)], workers=cluster.scheduler_address))


def test_a_lost_scheduler_is_one_line():
    cluster = local(n_workers=1)
    with pytest.raises(ControllerError, match="scheduler at .* is gone"):
        for _ in run_jobs(time.sleep, [(0.3,)] * 40, workers=cluster.scheduler_address):
            cluster.close()


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.slow
def test_calibrate_gives_the_same_files(tmp_path, capfd):
    outs = [tmp_path / "one.safetensors", tmp_path / "cluster.safetensors"]
    for out, how in zip(outs, (["--workers", "1"], ["--dask", "local:2"]), strict=True):
        with pytest.raises(SystemExit) as ended:
            main(["calibrate", "tiny", "--tasks", "tiny", "-n", "24", "--fit", "12", "--out", str(out), *how])
        assert not ended.value.code, capfd.readouterr().err
    assert digest(outs[0]) == digest(outs[1])
    assert digest(Path(f"{outs[0]}.runs.jsonl")) == digest(Path(f"{outs[1]}.runs.jsonl"))


@pytest.mark.slow
def test_a_cluster_and_workers_are_one_too_many(tmp_path, capfd):
    job = ["calibrate", "tiny", "--tasks", "tiny", "--out", str(tmp_path / "p.safetensors"), "--dask"]
    for arguments, told in (["local:2", "--workers", "2"], "were both given"), (["somewhere"], "tcp://host:8786"):
        with pytest.raises(SystemExit) as ended:
            main([*job, *arguments])
        err = capfd.readouterr().err
        assert ended.value.code == 2 and told in err and len(err.splitlines()) == 1
    assert not list(tmp_path.iterdir())
