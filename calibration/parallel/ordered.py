"""Results in the order of their jobs; Ctrl-C belongs to the parent process."""

from __future__ import annotations

import signal
import threading
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import Any

from joblib import Parallel, delayed
from joblib.externals.loky.backend import resource_tracker as loky_tracker


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
