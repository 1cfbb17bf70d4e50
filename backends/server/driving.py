"""One thread drives the scheduler for all clients. They hand it runs and cancel them; what runs bring is handed out.

A run's outputs are at most its tokens, so a client that reads slowly holds memory of a known size, and no row: its runs
end as fast as everybody's.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from reasonctl.controller import ControllerError, Decoding, Emitted, Ended, IdleRun, Need, Scheduler

from .refusals import Refusal

LOG = logging.getLogger("reasonctl.server")
Output: TypeAlias = Emitted | Ended
"""What a run brings: a token, or its end."""


@dataclass(frozen=True)
class ServedRun:
    """One run of a request."""

    loop: Decoding
    """The run, not started."""
    needs: Sequence[Need]
    """The room that it may take."""


@dataclass(eq=False)
class Group:
    """The runs of one request."""

    owner: str
    """The key of its client: keys take turns."""
    runs: Sequence[ServedRun]
    """Its runs, in order."""
    deliver: Callable[[list[Output]], None]
    """Is given what the runs bring, with a run's number as its key; called in the driver's thread."""
    shares: bool = False
    """The runs after the first begin once that one has read the prompt, which they take over from it."""
    open: set[int] = field(default_factory=set)
    """Numbers of the runs that haven't ended."""
    queued: int = 0
    """So many of the runs, the first ones, have been given a place in the queue."""


class Driver:
    """Owns the thread and the scheduler."""

    def __init__(self, at_once: int, queue: int, idle: Callable[[], IdleRun | None] = lambda: None) -> None:
        """No thread runs before `start`.

        Args:
            at_once: Most runs under way.
            queue: Most runs that wait.
            idle: Gives a run for the rule's own sake; asked when nobody wants anything.
        """
        self._idle = idle
        self._rested = False
        """`idle` had nothing, and no run has ended since."""
        self._at_once = at_once
        self._queue = queue
        self._scheduler = Scheduler()
        self._changed = threading.Condition()
        self._new: deque[Group] = deque()
        self._left: deque[Group] = deque()
        self._waiting: dict[str, deque[tuple[Group, int]]] = {}
        """Runs that wait, by owner; the owner in front is served next."""
        self._running: dict[tuple[int, int], Group] = {}
        """Runs under way, by their names in the scheduler."""
        self._count = 0
        """Runs that wait, those that the thread hasn't taken over included."""
        self._closed = False
        self.failure: Exception | None = None
        """What the thread ended with, which it never should."""
        self._thread = threading.Thread(target=self._run, name="reasonctl-driver", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def running(self) -> int:
        """Runs under way."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Runs that wait for a place."""
        return self._count

    def submit(self, group: Group) -> None:
        """Let a request's runs join.

        Raises:
            Refusal: Too many runs wait already, or the server ends.
        """
        with self._changed:
            if self._closed or self.failure is not None:
                raise Refusal(503, "the server is ending; ask again later", code="unavailable")
            free = self._at_once - len(self._running)
            if self._count + len(group.runs) > max(free, 0) + self._queue:
                raise Refusal(
                    429, f"{self._count} runs wait already and {self._queue} may; ask again later", code="queue_full"
                )
            group.open = set(range(len(group.runs)))
            self._count += len(group.runs)
            self._new.append(group)
            self._changed.notify()

    def cancel(self, group: Group) -> None:
        """End a request's runs after the forward that is under way, and give their rows back. More is harmless."""
        with self._changed:
            if group.open:
                self._left.append(group)
                self._changed.notify()

    def close(self) -> None:
        """End all runs and the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        try:
            while self._take():
                self._admit()
                self._step()
        except Exception as error:  # noqa: BLE001 - clients must hear of whatever ends the thread
            self.failure = error
            self._fail(error)
        finally:
            self._scheduler.close()

    def _take(self) -> bool:
        """Wait until there is something to do, and take it over. False: the driver is closed."""
        if not (self._rested or self._new or self._running or self._waiting or self._closed):
            self._rest()
        with self._changed:
            while not (self._new or self._left or self._running or self._waiting or self._closed):
                self._changed.wait()
            new, self._new = self._new, deque()
            left, self._left = self._left, deque()
        if self._closed:
            self._fail(Refusal(503, "the server is ending; ask again later", code="unavailable"), *new)
            return False
        for group in new:
            self._queue_up(group, 1 if group.shares else len(group.runs))
        for group in left:
            self._leave(group)
        return True

    def _rest(self) -> None:
        """Nobody wants anything: begin a run of the rule's own, if there is one. Clients' runs share its forwards."""
        try:
            own = self._idle()
        except ControllerError:
            LOG.warning("the exit rule learns no more", exc_info=True)
            own, self._idle = None, lambda: None
        if own is None:
            self._rested = True
            return
        group = Group("", [ServedRun(own.loop, own.needs)], self._learnt, open={0}, queued=1)
        self._running[id(group), 0] = group
        self._scheduler.add((id(group), 0), own.loop, own.needs)

    def _learnt(self, outputs: list[Output]) -> None:
        """A run of the rule's own has brought something."""
        if isinstance(outputs[-1], Ended) and outputs[-1].error is not None:
            LOG.warning("the exit rule learns no more", exc_info=outputs[-1].error)
            self._idle = lambda: None

    def _queue_up(self, group: Group, runs: int) -> None:
        """Give the first so many runs of a request a place in the queue."""
        waiting = self._waiting.setdefault(group.owner, deque())
        waiting.extend((group, number) for number in range(group.queued, runs))
        group.queued = runs

    def _leave(self, group: Group) -> None:
        """Take a request's runs out."""
        for number in group.open:
            name = (id(group), number)
            if name in self._running:
                del self._running[name]
                self._scheduler.cancel(name)
                self._rested = False
        for owner, waiting in list(self._waiting.items()):
            others = deque(one for one in waiting if one[0] is not group)
            self._dropped(len(waiting) - len(others))
            self._keep(owner, others)
        self._dropped(len(group.runs) - group.queued)
        group.queued = len(group.runs)
        group.open = set()

    def _keep(self, owner: str, waiting: deque[tuple[Group, int]]) -> None:
        if waiting:
            self._waiting[owner] = waiting
        else:
            self._waiting.pop(owner, None)

    def _dropped(self, runs: int) -> None:
        """So many runs wait no more."""
        with self._changed:
            self._count -= runs

    def _admit(self) -> None:
        """Start runs while there are places: of each owner in turn."""
        while self._waiting and len(self._running) < self._at_once:
            owner = next(iter(self._waiting))
            waiting = self._waiting.pop(owner)
            group, number = waiting.popleft()
            self._keep(owner, waiting)  # now the last one
            self._dropped(1)
            run = group.runs[number]
            name = (id(group), number)
            self._running[name] = group
            self._scheduler.add(name, run.loop, run.needs)

    def _step(self) -> None:
        """One forward, and what it brought."""
        self._scheduler.step()
        for name, group in list(self._running.items()):
            outputs = [output._replace(key=name[1]) for output in self._scheduler.read(name)]
            if not outputs:
                continue
            if isinstance(outputs[-1], Ended):
                del self._running[name]
                group.open.discard(name[1])
                self._rested = False
            if group.queued < len(group.runs):
                self._queue_up(group, len(group.runs))
            group.deliver(outputs)

    def _fail(self, error: Exception, *others: Group) -> None:
        """Let every client know that nothing more comes."""
        groups = {**dict.fromkeys(self._running.values()), **dict.fromkeys(others), **dict.fromkeys(self._new)}
        groups |= dict.fromkeys(group for waiting in self._waiting.values() for group, _ in waiting)
        for group in groups:
            numbers, group.open = sorted(group.open), set()
            group.deliver([Ended(number, error) for number in numbers])
        self._running.clear()
        self._waiting.clear()
