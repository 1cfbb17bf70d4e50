"""Runs jobs on the machines of a dask cluster, through joblib. Imported only where a cluster is asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack, closing, contextmanager
from importlib import metadata
from importlib.metadata import version
from typing import Any

import dask
from distributed import Client, KilledWorker, LocalCluster
from distributed.comm import CommClosedError
from joblib._dask import DaskDistributedBackend

from reasonctl.controller import ControllerError

from .ordered import ctrl_c_is_ours, in_order

SECONDS = 10
"""How long a scheduler may take to answer, and then its first worker to appear."""

LIMITS = {"distributed.scheduler.worker-ttl": None, "distributed.scheduler.no-workers-timeout": "120s"}
"""Of a cluster here: a silent worker may be in a long run, but none at all for so long won't come back."""

PACKAGE = "reasonctl"
_ONE = threading.Lock()


def over_machines(function: Callable[..., Any], jobs: Sequence[tuple[Any, ...]], address: str) -> Iterator[Any]:
    """function(*job) for every job, in order, on the cluster at an address; dask moves a dead worker's jobs itself."""
    remote = [(version(PACKAGE), function, job) for job in jobs]
    with _connected(address) as client:
        try:
            client.run(metadata.version, PACKAGE)  # a job that a worker can't load would end the worker
            with closing(
                in_order(_work, remote, backend=_Backend(client=client, wait_for_workers_timeout=SECONDS))
            ) as results:
                yield from results
        except TimeoutError:
            raise ControllerError(
                f"no worker is at {address} after {SECONDS} s; start some: dask worker {address} --nthreads 1"
            ) from None
        except metadata.PackageNotFoundError:
            raise ControllerError(
                f"a dask worker has no {PACKAGE}; install {version(PACKAGE)} on every machine"
            ) from None
        except _GivenUp as error:
            raise ControllerError(_why(error.cause)) from None
        except (CancelledError, CommClosedError):
            raise ControllerError(
                f"the scheduler at {address} is gone; finished runs are kept, run the same command again"
            ) from None


class _GivenUp(Exception):
    """The cluster, not the job, failed."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(str(cause))
        self.cause = cause


def _why(cause: BaseException) -> str:
    if isinstance(cause, KilledWorker):
        deaths = cause.allowed_failures + 1
        return f"one run ended {deaths} dask workers, most likely for want of memory; start fewer on a machine"
    reason = str(cause).strip().partition("\n")[0]
    return f"the cluster gave a run up: {reason}; finished runs are kept, run the same command again"


@contextmanager
def _connected(address: str) -> Iterator[Client]:
    kind, _, count = address.partition(":")
    with ExitStack() as stack:
        with ctrl_c_is_ours():
            where: Any = address
            if kind == "local":
                stack.enter_context(dask.config.set(LIMITS))
                where = stack.enter_context(
                    LocalCluster(n_workers=int(count), threads_per_worker=1, memory_limit=0, dashboard_address=":0")
                )
            try:
                client = stack.enter_context(Client(where, timeout=SECONDS, set_as_default=False))
            except OSError:
                raise ControllerError(
                    f"no dask scheduler answers at {address}; start one there: dask scheduler"
                ) from None
        yield client


def _work(ours: str, function: Callable[..., Any], job: tuple[Any, ...]) -> Any:
    """A job on a worker. A model serves one run at a time, however many threads the worker has."""
    if (theirs := version(PACKAGE)) != ours:
        raise ControllerError(f"a dask worker has {PACKAGE} {theirs}, this machine has {ours}; install the same")
    with _ONE:
        return function(*job)


class _Backend(DaskDistributedBackend):  # type: ignore[misc]
    """joblib's own, and two things that it lacks (1.6)."""

    def effective_n_jobs(self, n_jobs: int) -> int:
        """At least 2: joblib would do the runs of a cluster with a single core in this process."""
        return max(2, int(super().effective_n_jobs(n_jobs)))

    def submit(self, func: Any, callback: Callable[[Any], None]) -> Any:
        """Report a task that the cluster gave up, too: joblib would wait for it for ever."""
        future = super().submit(func, callback)

        def report(ended: Any) -> None:
            if cause := ended.exception():
                callback(_GivenUp(cause))

        future.add_done_callback(report)
        return future
