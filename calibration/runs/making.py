"""Makes the runs of prepared calls: one after the other, or in forwards that they share.

Runs that share forwards come in windows. Which runs are in a window follows from their order alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from contextlib import closing
from typing import NamedTuple, TypeVar

from reasonctl.backends import Model
from reasonctl.controller import Call, Controller, Ended, Event, QueuedRun, Scheduler, Trace, ends_of
from reasonctl.controller.core import check_memory
from reasonctl.controller.thinking import read_template

from ..tasks.problem import Problem

T = TypeVar("T")

RUNS_AT_ONCE = 4
"""Runs that calibration decodes together by default. Four pay on both libraries, and a window of them isn't long."""
RUNS_IN_VLLM = 64
"""The same where vLLM makes the runs; it is asked for a window of them at once."""
WINDOW = 4
"""Batches in a window."""


class PreparedRun(NamedTuple):
    """A run that is to be made."""

    controller: Controller
    """What controls it."""
    call: Call
    """Its prompt and its settings."""


class FinishedRun(NamedTuple):
    """A finished run."""

    trace: Trace
    """What the loop recorded of it."""
    seconds: float
    """Wall-clock, prefill included. Of a batch every run has an equal share of the window's."""


def runs_at_once(backend: str | None, *, logged: bool) -> int:
    """How many runs calibration decodes together where nobody says.

    Args:
        backend: What makes the runs. None: what the model file says.
        logged: They are read from a log: of such a run one forward reads many tokens already.
    """
    if logged:
        return 1
    return RUNS_IN_VLLM if backend == "vllm" else RUNS_AT_ONCE


def windows_of(asked: Sequence[T], batch: int) -> list[tuple[T, ...]]:
    """Runs in windows of a fixed size. Which runs share forwards follows from their indices, not from what was done.

    A window holds more runs than a batch, so that the next ones take the place of those that end early.

    >>> windows_of("abcdefghij", 2), windows_of("abc", 1)
    ([('a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'), ('i', 'j')], [('a',), ('b',), ('c',)])
    """
    size = 1 if batch == 1 else WINDOW * batch
    return [tuple(asked[i : i + size]) for i in range(0, len(asked), size)]


def run_once(
    model: Model, controller: Controller, call: Call, each: Callable[[Event], None] | None = None
) -> FinishedRun:
    """Make one call on a session of its own.

    Args:
        model: The model.
        controller: What controls the run.
        call: The prompt and its settings.
        each: Called with every token as it comes.
    """
    controller = _knowing(controller, model)
    trace = Trace()
    with closing(model.engine.session()) as session:
        start = time.perf_counter()
        for event in controller.stream(session, model.tokenizer, call, trace):
            if each is not None:
                each(event)
        seconds = time.perf_counter() - start
    return FinishedRun(trace, seconds)


def run_window(model: Model, window: Sequence[PreparedRun], batch: int) -> list[FinishedRun]:
    """Make the runs of a window.

    Args:
        model: The model, loaded for so large a batch.
        window: The runs. They begin in this order.
        batch: Most runs that are under way at a time. 1: each is made as `run_once` makes it.

    Raises:
        ControllerError: One of the runs can't be made; the others are given up.
    """
    if model.backend == "vllm":
        return _in_vllm(model, window)
    if batch == 1:
        return [run_once(model, *run) for run in window]
    traces, scheduler = [Trace() for _ in window], Scheduler()
    start = time.perf_counter()
    queue = (_queued(i, model, run, traces[i]) for i, run in enumerate(window))
    try:
        for ended in ends_of(scheduler, queue, batch):
            if ended.error is not None:
                raise ended.error
    finally:
        scheduler.close()
    seconds = (time.perf_counter() - start) / max(1, len(window))
    return [FinishedRun(trace, seconds) for trace in traces]


def _in_vllm(model: Model, window: Sequence[PreparedRun]) -> list[FinishedRun]:
    """The runs of a window, which vLLM makes."""
    from reasonctl.backends.vllm.runs import make_runs

    start = time.perf_counter()
    traces = make_runs(model, [(_knowing(run.controller, model), run.call) for run in window])
    seconds = (time.perf_counter() - start) / max(1, len(window))
    return [FinishedRun(trace, seconds) for trace in traces]


def _queued(key: Hashable, model: Model, run: PreparedRun, trace: Trace) -> QueuedRun:
    """A run that waits for its turn."""
    controller = _knowing(run.controller, model)
    needs = controller.needs(model.engine, model.tokenizer, run.call)
    return QueuedRun(key, controller.run(model.engine, model.tokenizer, run.call, trace), needs)


def run_all(
    model: Model, runs: Sequence[PreparedRun], batch: int, done: Callable[[int], None] = lambda runs: None
) -> list[FinishedRun]:
    """Make runs in windows, in order; `done` is called after each window with the number of runs made.

    Raises:
        ControllerError: There is no room for such a batch.
    """
    check_batch(model, runs, batch)
    made: list[FinishedRun] = []
    for window in windows_of(runs, batch):
        made += run_window(model, window, batch)
        done(len(made))
    return made


def check_batch(model: Model, runs: Sequence[PreparedRun], batch: int, *, processes: int = 0, besides: int = 0) -> None:
    """Raise ControllerError, before any work, if runs don't fit in batches: for want of sessions, cells or memory.

    Args:
        model: The model, loaded for so large a batch.
        runs: The runs.
        batch: Most runs that are under way at a time. A single run is only asked about where processes make it.
        processes: As `processes_of` counts them; each loads the model anew.
        besides: Bytes that each process takes besides, such as for another model.
    """
    if not runs or model.backend == "vllm":
        return  # vLLM lets runs wait for room
    longest = max(runs, key=lambda run: len(run.call.prompt) + run.call.max_new_tokens)
    run = _queued("with the longest prompt", model, longest, Trace())
    if batch > 1:
        _check_room(run)
    check_memory(run.needs, batch, processes=processes, besides=besides)


def longest_of(model: Model, problems: Sequence[Problem]) -> str:
    """The question of the problem with the longest prompt; there is at least one."""
    return max((problem.question for problem in problems), key=lambda question: len(model.prompt(question)))


def _check_room(run: QueuedRun) -> None:
    """Raise ControllerError if there is no room for a run even alone."""
    scheduler = Scheduler()
    scheduler.add(*run)
    for output in scheduler.read(run.key):  # such a run ends at once
        if isinstance(output, Ended) and output.error is not None:
            raise output.error
    scheduler.close()


def _knowing(controller: Controller, model: Model) -> Controller:
    """The controller with what the model's template says of thinking, where a rule needs it."""
    return controller if controller.exit is None else controller.knowing(read_template(model.template).thinking)
