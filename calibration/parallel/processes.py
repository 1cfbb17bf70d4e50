"""Runs jobs over processes or machines and gives their results in order.

A worker that dies costs a retry, not the job; no worker outlives its job, however that ends.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any

from joblib.externals.loky.process_executor import TerminatedWorkerError

from reasonctl.controller import ControllerError

from .ordered import in_order

MOST_DEATHS = 3
"""Workers that may die one after the other without a result between them."""


def over_processes(
    function: Callable[..., Any], jobs: Sequence[tuple[Any, ...]], workers: int, warn: Callable[[str], None]
) -> Iterator[Any]:
    """function(*job) for every job, in order, in processes of this machine.

    Args:
        function: What every job calls; a process must be able to import it.
        jobs: The arguments of each call.
        workers: Number of processes.
        warn: Called with a message when a worker died and its jobs are done again.

    Raises:
        ControllerError: Workers died on the same jobs again and again.
    """
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
