"""Many calls of one function, here, in processes or on machines; their results come in the order of the calls."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Sequence
from typing import Any

from reasonctl.backends.extras import require
from reasonctl.controller import ControllerError

ProgressCallback = Callable[[int, int], None]
"""Called with (jobs done, jobs wanted)."""


def run_jobs(
    function: Callable[..., Any],
    jobs: Sequence[tuple[Any, ...]],
    *,
    workers: int | str,
    warn: Callable[[str], None] = warnings.warn,
) -> Generator[Any, None, None]:
    """function(*job) for every job, in order.

    Args:
        function: What every job calls; processes and machines must be able to import it.
        jobs: The arguments of each call.
        workers: A number of processes (one is this process, which keeps its models loaded), or a dask cluster: the
            address of its scheduler, or local:N for N workers here that speak to each other as machines do.
        warn: Called with a message when a worker died and its jobs are done again.
    """
    if isinstance(workers, str):
        from .dask import over_machines  # needs the extra

        yield from over_machines(function, jobs, workers)
    elif processes := processes_of(workers, len(jobs)):
        from .processes import over_processes  # reads joblib

        yield from over_processes(function, jobs, processes, warn)
    else:
        for job in jobs:
            yield function(*job)


def processes_of(workers: int | str, jobs: int) -> int:
    """How many further processes of this machine make so many jobs, each with a model of its own.

    0: this process makes them, or other machines do. `workers` is as in `run_jobs`.

    >>> processes_of(4, 100), processes_of(4, 3), processes_of(1, 100), processes_of("local:2", 100)
    (4, 3, 0, 2)
    """
    if isinstance(workers, str):
        kind, _, count = workers.partition(":")
        return min(int(count), jobs) if kind == "local" else 0
    most = min(workers, jobs)
    return most if most > 1 else 0


def check_cluster(address: str) -> None:
    """Raise ControllerError if there can be no cluster at this address, before any work."""
    require("dask", "distributed")
    kind, _, rest = address.partition(":")
    if not (rest.isdecimal() and int(rest) if kind == "local" else rest.startswith("//")):
        raise ControllerError(f"--dask is {address!r}; give a scheduler's address such as tcp://host:8786, or local:2")
