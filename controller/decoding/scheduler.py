"""The scheduler: many runs share the forwards of their engines. Runs join, wait for room, leave and fail alone.

It has no threads and no clock. The same runs, added and read in the same order, make the same forwards.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple, TypeAlias, TypeVar

from ..core.decode import UNLIMITED, Decode, Engine, Need
from ..core.errors import ControllerError
from ..core.trace import Event
from .drivers import answer
from .run import Decoding


class Emitted(NamedTuple):
    """A token of a run."""

    key: Hashable
    """The run's name."""
    event: Event
    """The token."""


class Ended(NamedTuple):
    """The end of a run: nothing more comes of it."""

    key: Hashable
    """The run's name."""
    error: Exception | None
    """What it failed with. None: it ran to its end."""


Output: TypeAlias = Emitted | Ended
T = TypeVar("T")


@dataclass(eq=False)
class ScheduledRun:
    """One run, from `add` until its ending is read."""

    key: Hashable
    """Its name."""
    loop: Decoding
    """The run itself. It opens its sessions when it starts, and closes them when it is closed."""
    needs: Sequence[Need]
    """The room that it holds while it is admitted."""
    unread: deque[Output] = field(default_factory=deque)
    """What it has brought and nobody has read."""


class Scheduler:
    """Runs many loops at once, in forwards of what is ready.

    A run is admitted when every engine has room for all that the run may need; until then it waits, and those after
    it wait too. So runs start in the order in which they were added, and an admitted run never lacks room. A forward
    serves the engine that was asked first, with the requests that wait for it.

    >>> from reasonctl.controller import Call, Controller, Greedy, Keys, Trace
    >>> from reasonctl.backends.toy import ToyEngine, ToyTokenizer
    >>> engine, tokenizer = ToyEngine(vocabulary=3), ToyTokenizer(["a", "b", "c"])
    >>> scheduler = Scheduler()
    >>> for name, length in (("long", 4), ("short", 2)):
    ...     call = Call([0], length, frozenset(), Keys(seed=1), Greedy())
    ...     scheduler.add(name, Controller().run(engine, tokenizer, call, Trace()))
    >>> [output.key for output in scheduler if isinstance(output, Ended)], engine.forwards
    (['short', 'long'], 4)
    """

    def __init__(self, most_unread: int = UNLIMITED, held: Sequence[Need] = ()) -> None:
        """A scheduler without runs.

        Args:
            held: room that sequences hold which belong to none of the runs, such as a prompt that all runs share.
            most_unread: outputs of a run that may wait to be read. A run with so many pauses until some are read, and
                keeps its room; the others go on.
        """
        if most_unread < 1:
            raise ControllerError(f"most_unread is {most_unread}; a run needs a place for at least 1 token")
        self.most_unread = most_unread
        self._held = tuple(held)
        self._runs: dict[Hashable, ScheduledRun] = {}
        """By key, in the order of addition."""
        self._waiting: deque[ScheduledRun] = deque()
        """Not admitted yet."""
        self._running: dict[ScheduledRun, None] = {}
        """Admitted and not over, in the order of admission."""
        self._paused: dict[ScheduledRun, None] = {}
        """Those of them that wait until they are read."""
        self._asking: dict[ScheduledRun, Decode] = {}
        """Those of them that wait for a forward, in the order in which they asked."""

    def add(self, key: Hashable, loop: Decoding, needs: Sequence[Need] = ()) -> None:
        """Let a run join.

        Args:
            key: its name in the outputs; another one than those of the runs whose ending wasn't read yet.
            loop: the run, not started. It opens its session when it starts, as `Controller.run` does.
            needs: the room that it may take, on each engine that it uses. A run that needs more than an engine has
                ends at once, with an error that says so.

        Raises:
            ControllerError: the key is in use.
        """
        if key in self._runs:
            raise ControllerError(f"a run named {key!r} is scheduled already; give every run a name of its own")
        run = ScheduledRun(key, loop, tuple(needs))
        self._runs[key] = run
        problem = _too_large(run, self._held)
        if problem is None:
            self._waiting.append(run)
        else:
            self._end(run, problem)

    def cancel(self, key: Hashable) -> None:
        """End a run now and give its room back. Nothing more comes of it; a run that has ended stays so."""
        run = self._runs.pop(key, None)
        if run is not None:
            run.unread.clear()
            self._leave(run)
            run.loop.close()

    def close(self) -> None:
        """Cancel every run."""
        with ExitStack() as stack:  # all of them, even where one can't clean up
            for key in self._runs:
                stack.callback(self.cancel, key)

    def read(self, key: Hashable) -> list[Output]:
        """Take what a run has brought since it was last read; its ending comes last, and frees its key.

        Raises:
            ControllerError: no run has this name: it was never added, was cancelled, or its ending was read.
        """
        if key not in self._runs:
            raise ControllerError(f"no run is named {key!r}: it wasn't added, or its ending was read already")
        return list(self._take(self._runs[key]))

    def __iter__(self) -> Iterator[Output]:
        """Everything that the runs bring, until all have ended. Runs may be added and cancelled meanwhile."""
        while True:
            went_on = self.step()
            unread = [run for run in self._runs.values() if run.unread]
            for run in unread:
                yield from self._take(run)
            if not went_on and not unread:
                return

    def _take(self, run: ScheduledRun) -> Iterator[Output]:
        """What a run has brought, one by one: who reads it may cancel the run."""
        while run.unread:
            output = run.unread.popleft()
            if isinstance(output, Ended):
                del self._runs[run.key]
            yield output

    def step(self) -> bool:
        """Admit what there is room for, and make one forward.

        Returns:
            Whether anything was done. False: every run has ended, or pauses until it is read.
        """
        resumed = [run for run in self._paused if len(run.unread) < self.most_unread]
        for run in resumed:
            del self._paused[run]
            self._go_on(run, run.loop.send, None)
        admitted = self._admit()
        requests = self._next_forward()
        if requests:
            self._forward(requests)
        return bool(resumed or admitted or requests)

    def _admit(self) -> bool:
        """Start waiting runs, the first first, while there is room."""
        before = len(self._waiting)
        while self._waiting and self._fits(self._waiting[0]):
            run = self._waiting.popleft()
            self._running[run] = None
            self._go_on(run, run.loop.send, None)
        return len(self._waiting) < before

    def _fits(self, run: ScheduledRun) -> bool:
        """Whether every engine has room for the run next to those that are running."""
        held = [*self._held, *(need for other in self._running for need in other.needs)]
        return all(
            _tokens(engine, held) + _tokens(engine, run.needs) <= engine.room
            and _sessions(engine, held) + _sessions(engine, run.needs) <= engine.most_sessions
            for engine in _engines(run)
        )

    def _next_forward(self) -> dict[ScheduledRun, Decode]:
        """The requests of one forward: of the engine that was asked first, in the order in which they came."""
        if not self._asking:
            return {}
        # A loop may wait for its draft model while others wait for the target.
        engine = next(iter(self._asking.values())).session.engine
        here = {run: request for run, request in self._asking.items() if request.session.engine is engine}
        timed = [i for i, request in enumerate(here.values()) if request.clock is not None and request.clock.alone]
        first = list(here.values())[: max(timed[0], 1) if timed else None]
        runs = list(here)[: engine.together(first)]
        return {run: self._asking.pop(run) for run in runs}

    def _forward(self, requests: dict[ScheduledRun, Decode]) -> None:
        """Make one forward, and let every run read its Step before the next one makes it stale."""
        try:
            steps = answer(tuple(requests.values()))
        except Exception as error:  # noqa: BLE001 - whatever an engine fails with ends only the runs at fault
            if len(requests) > 1:
                for run, request in requests.items():
                    self._forward({run: request})
                return
            (run,) = requests
            self._go_on(run, run.loop.throw, error)
            return
        for run, step in zip(requests, steps, strict=True):
            self._go_on(run, run.loop.send, step)

    def _go_on(self, run: ScheduledRun, resume: Callable[[T], Decode | Event], given: T) -> None:
        """Resume a loop with what it is given, until it asks for a forward, ends, or has to be read first."""
        try:
            item = resume(given)
            while not isinstance(item, Decode):
                run.unread.append(Emitted(run.key, item))
                if len(run.unread) >= self.most_unread:
                    self._paused[run] = None
                    return
                item = next(run.loop)
            self._asking[run] = item
        except StopIteration:
            self._end(run, None)
        except Exception as error:  # noqa: BLE001 - a run fails alone, whatever its parts raise
            self._end(run, error)

    def _end(self, run: ScheduledRun, error: Exception | None) -> None:
        self._leave(run)
        run.unread.append(Ended(run.key, error))

    def _leave(self, run: ScheduledRun) -> None:
        """Give a run's room back."""
        self._running.pop(run, None)
        self._paused.pop(run, None)
        self._asking.pop(run, None)
        if run in self._waiting:
            self._waiting.remove(run)


class QueuedRun(NamedTuple):
    """A run that waits for its turn; the arguments of `Scheduler.add`."""

    key: Hashable
    """Its name."""
    loop: Decoding
    """The run itself, not started."""
    needs: Sequence[Need]
    """The room that it may take."""


def ends_of(scheduler: Scheduler, runs: Iterable[QueuedRun], at_once: int) -> Iterator[Ended]:
    """Run loops to their ends, at most so many at a time: another one joins when an ending has been read.

    Args:
        scheduler: One without runs.
        runs: The runs, in the order in which they begin. Each is taken when it joins.
        at_once: Most runs that are under way.

    Yields:
        The ending of each run, as it comes.
    """
    waiting = iter(runs)
    for run in islice(waiting, at_once):
        scheduler.add(*run)
    for output in scheduler:
        if isinstance(output, Ended):
            yield output
            for run in islice(waiting, 1):
                scheduler.add(*run)


def _engines(run: ScheduledRun) -> dict[Engine, None]:
    """The engines on which the run needs room."""
    return dict.fromkeys(need.engine for need in run.needs)


def _tokens(engine: Engine, needs: Sequence[Need]) -> int:
    return sum(need.tokens for need in needs if need.engine is engine)


def _sessions(engine: Engine, needs: Sequence[Need]) -> int:
    return sum(need.sessions for need in needs if need.engine is engine)


def _too_large(run: ScheduledRun, held: Sequence[Need]) -> ControllerError | None:
    """Why the run would have no room even alone, next to what is held."""
    for engine in _engines(run):
        needs = [*held, *run.needs]
        tokens, sessions = _tokens(engine, needs), _sessions(engine, needs)
        if tokens > engine.room:
            return ControllerError(
                f"run {run.key!r} may need {tokens} tokens of cache and there is room for {engine.room}; "
                "shorten the prompt, lower max_new_tokens, or load the model with a larger context"
            )
        if sessions > engine.most_sessions:
            return ControllerError(
                f"run {run.key!r} may need {sessions} sessions at once and the engine has {engine.most_sessions}; "
                "leave out trials or drafts, or load the model with a larger batch"
            )
    return None
