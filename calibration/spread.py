"""Runs jobs over processes or machines and gives their results in order.

A worker that dies costs a retry, not the job; no worker outlives its job, however that ends.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from importlib.util import find_spec
from multiprocessing import resource_tracker
from typing import Any

from joblib import Parallel, delayed
from joblib.externals.loky.backend import resource_tracker as loky_tracker
from joblib.externals.loky.process_executor import TerminatedWorkerError

from reasonctl.controller import ControllerError

MOST_DEATHS = 3
"""Workers that may die one after the other without a result between them."""


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def spread(
    function: Callable[..., Any], jobs: Sequence[tuple[Any, ...]], *,
    workers: int | str, warn: Callable[[str], None] = warnings.warn,
) -> Generator[Any, None, None]:  # fmt: skip
    """function(*job) for every job, in order.

    workers: a number of processes (one is this process, which keeps its models loaded), or a dask cluster: the
    address of its scheduler, or local:N for N workers here that speak to each other as machines do.
    """
    if isinstance(workers, str):
        from .cluster import over_machines  # needs the extra

        yield from over_machines(function, jobs, workers)
    elif min(workers, len(jobs)) <= 1:
        for job in jobs:
            yield function(*job)
    else:
        yield from _over_processes(function, jobs, min(workers, len(jobs)), warn)


def check_cluster(address: str) -> None:
    """Raise if there can be no cluster at this address, before any work."""
    if find_spec("distributed") is None:
        raise ControllerError("--dask needs a package that isn't installed; pip install 'reasonctl[dask]'")
    kind, _, rest = address.partition(":")
    if not (rest.isdecimal() and int(rest) if kind == "local" else rest.startswith("//")):
        raise ControllerError(f"--dask is {address!r}; give a scheduler's address such as tcp://host:8786, or local:2")


def in_order(
    function: Callable[..., Any], jobs: Sequence[tuple[Any, ...]], **parallel: Any
) -> Generator[Any, None, None]:
    """joblib's results, in order of the jobs. Few jobs are on their way at a time, so that stopping is quick."""
    with ctrl_c_is_ours():
        tasks = Parallel(return_as="generator", pre_dispatch="4 * n_jobs", batch_size=1, **parallel)
        results = tasks(delayed(function)(*job) for job in jobs)
    try:
        for result in results:  # noqa: UP028 (`yield from` would close them before we are quiet)
            yield result
    finally:
        with _quietly():
            results.close()


@contextmanager
def _quietly() -> Iterator[None]:
    """What joblib says when it is stopped on purpose: of results that nobody took, of a thread that lost its queue."""
    before = threading.excepthook
    threading.excepthook = lambda _: None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        threading.excepthook = before


@contextmanager
def ctrl_c_is_ours() -> Iterator[None]:
    """Processes started here don't hear Ctrl-C: they inherit a blocked SIGINT, and this process ends them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    for tracker in (resource_tracker, loky_tracker):
        tracker.ensure_running()  # they unblock SIGINT when they start
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _over_processes(
    function: Callable[..., Any], jobs: Sequence[tuple[Any, ...]], workers: int, warn: Callable[[str], None]
) -> Iterator[Any]:
    done = deaths = 0
    while done < len(jobs):
        how = {"n_jobs": workers, "initializer": _die_with, "initargs": (os.getpid(),)}
        try:
            with closing(in_order(function, jobs[done:], **how)) as results:
                for result in results:
                    done, deaths = done + 1, 0
                    yield result
        except TerminatedWorkerError:
            deaths += 1
            if deaths > MOST_DEATHS:
                raise ControllerError(
                    f"a worker process died {deaths} times on the same runs, most likely for want of memory; "
                    "give fewer --workers"
                ) from None
            warn("a worker process died (out of memory?); its runs are done again")


def _die_with(parent: int) -> None:
    """Start a watch in a new worker: a killed parent can't tell it to end, and it would wait for ever."""
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
