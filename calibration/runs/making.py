"""Makes the runs of prepared calls: one after the other, or in forwards that they share.

Runs that share forwards come in windows. Which runs are in a window follows from their order alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple, TypeVar

from reasonctl.backends import Model
from reasonctl.controller import Call, Controller, Ended, Event, Need, Scheduler, Trace
from reasonctl.controller.thinking import read_template

T = TypeVar("T")

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
    session, trace = model.engine.session(), Trace()
    start = time.perf_counter()
    for event in controller.stream(session, model.tokenizer, call, trace):
        if each is not None:
            each(event)
    seconds = time.perf_counter() - start
    session.close()
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
    if batch == 1:
        return [run_once(model, *run) for run in window]
    traces, scheduler = [Trace() for _ in window], Scheduler()
    start, waiting = time.perf_counter(), iter(enumerate(zip(window, traces, strict=True)))

    def begin_next() -> None:
        found = next(waiting, None)
        if found is not None:
            number, (run, trace) = found
            _schedule(scheduler, number, model, run, trace)

    try:
        for _ in range(batch):
            begin_next()
        for output in scheduler:
            if isinstance(output, Ended):
                if output.error is not None:
                    raise output.error
                begin_next()
    finally:
        scheduler.close()
    seconds = (time.perf_counter() - start) / max(1, len(window))
    return [FinishedRun(trace, seconds) for trace in traces]


def _schedule(scheduler: Scheduler, key: Hashable, model: Model, run: PreparedRun, trace: Trace) -> tuple[Need, ...]:
    """Let a run join; the room that it may take is returned."""
    controller = _knowing(run.controller, model)
    needs = controller.needs(model.engine, model.tokenizer, run.call)
    scheduler.add(key, controller.run(model.engine, model.tokenizer, run.call, trace), needs)
    return needs


def run_all(
    model: Model, runs: Sequence[PreparedRun], batch: int, done: Callable[[int], None] = lambda runs: None
) -> list[FinishedRun]:
    """Make runs in windows, in order; `done` is called after each window with the number of runs made."""
    made: list[FinishedRun] = []
    for window in windows_of(runs, batch):
        made += run_window(model, window, batch)
        done(len(made))
    return made


def check_batch(model: Model, runs: Sequence[PreparedRun], batch: int) -> None:
    """Raise ControllerError, before any work, if runs don't fit in batches: for want of sessions, cells or memory."""
    if batch == 1 or not runs:
        return
    longest = max(runs, key=lambda run: len(run.call.prompt) + run.call.max_new_tokens)
    scheduler, key = Scheduler(), "with the longest prompt"
    needs = _schedule(scheduler, key, model, longest, Trace())
    for output in scheduler.read(key):  # a run for which there is no room ends at once
        if isinstance(output, Ended) and output.error is not None:
            raise output.error
    scheduler.close()
    own = needs[0]
    model.engine.check_memory(batch * own.sessions, own.tokens)


def _knowing(controller: Controller, model: Model) -> Controller:
    """The controller with what the model's template says of thinking, where a rule needs it."""
    return controller if controller.exit is None else controller.knowing(read_template(model.template).thinking)
