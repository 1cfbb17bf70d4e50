"""Runs jobs over processes and gives their results in order. No worker outlives its job, however that ends."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from joblib import Parallel, delayed
from joblib.externals.loky import get_reusable_executor

_WATCH = "dies with its parent"


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _work(parent: int, function: Callable[..., Any], job: tuple[Any, ...]) -> Any:
    """A job in a worker that dies with its parent: a killed parent can't tell it to, and it would wait for ever."""
    if not any(thread.name == _WATCH for thread in threading.enumerate()):
        threading.Thread(target=_watch, args=(parent,), name=_WATCH, daemon=True).start()
    return function(*job)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def spread(function: Callable[..., Any], jobs: Sequence[tuple[Any, ...]], *, workers: int) -> Iterator[Any]:
    """function(*job) for every job, in order; with one worker in this process, which keeps its models loaded."""
    if workers == 1:
        for job in jobs:
            yield function(*job)
        return
    parallel = Parallel(n_jobs=workers, return_as="generator", pre_dispatch=4 * workers, batch_size=1)
    try:
        yield from parallel(delayed(_work)(os.getpid(), function, job) for job in jobs)
    except BaseException:
        # Ctrl-C, a consumer that stopped, or a failed run: no worker outlives the job.
        get_reusable_executor().shutdown(wait=False, kill_workers=True)
        raise
