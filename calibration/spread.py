"""Runs jobs over processes and gives their results in order. Workers are torn down with the job."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from joblib import Parallel, delayed
from joblib.externals.loky import get_reusable_executor


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def spread(function: Callable[..., Any], jobs: Sequence[tuple[Any, ...]], *, workers: int) -> Iterator[Any]:
    """function(*job) for every job, in order; with one worker in this process, which keeps its models loaded."""
    if workers == 1:
        for job in jobs:
            yield function(*job)
        return
    parallel = Parallel(n_jobs=workers, return_as="generator", pre_dispatch=4 * workers, batch_size=1)
    try:
        yield from parallel(delayed(function)(*job) for job in jobs)
    except BaseException:
        # Ctrl-C, a consumer that stopped, or a failed run: no worker outlives the job.
        get_reusable_executor().shutdown(wait=False, kill_workers=True)
        raise
