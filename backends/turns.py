"""Calls of one model take turns: each runs alone, in the order in which they came.

A library's object has one visible state, and its hooks and counters are shared by all threads. Whole calls are
therefore serialised. A stream keeps its turn while it is read. Once nobody has read it for `PATIENCE` seconds, a
waiting call takes over, and the stream's next read raises.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from reasonctl.controller import ControllerError

PATIENCE = 10.0
"""Seconds without a read after which a waiting call ends a stream."""

_POLL = 0.2
"""Seconds between two checks of a stream; a wait with a limit is also what Ctrl-C interrupts on every system."""


class Turns:
    """Who may call one model now, and who waits."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        """Guards all of the state here and in the turns; notified when a turn ends."""
        self.holder: Turn | None = None
        """The call that runs, or the stream that is open."""
        self._waiting: deque[Turn] = deque()
        self._closed = False

    def turn(self, stop: Callable[[], None] = lambda: None) -> Turn:
        """A call's turn, which `begin` waits for. `stop` ends the call's run; it is called once."""
        return Turn(self, stop)

    @contextmanager
    def whole(self) -> Iterator[None]:
        """The turn of a call that is no stream."""
        turn = self.turn()
        try:
            turn.begin()
            yield
        finally:
            turn.end()

    def wait(self, turn: Turn) -> None:
        """Give `turn` the model once all calls before it have ended.

        Raises:
            ControllerError: the call is made inside another one, or the model is detached meanwhile.
        """
        with self.changed:
            self._waiting.append(turn)
            try:
                while self._waiting[0] is not turn or not self._free():
                    self.changed.wait(_POLL)
                if self._closed:
                    raise ControllerError("the model was detached while this call waited; call it again")
                self.holder = turn
            finally:
                self._waiting.remove(turn)
                self.changed.notify_all()

    def close(self) -> None:
        """End an open stream; calls that wait are refused. Raises ControllerError while a call runs."""
        with self.changed:
            if self.holder is not None and not self.holder.paused:
                raise ControllerError(
                    f"a call of this model is running in thread {self.holder.thread.name!r}; detach when it has ended"
                )
            self._closed = True
            self._stop_stream()

    def _free(self) -> bool:
        holder, here = self.holder, threading.current_thread()
        if holder is None:
            return True
        if not holder.paused:
            if holder.thread is here:
                raise ControllerError(
                    "a call was made inside another call of the same model, by a processor, a criterion or a policy; "
                    "make it when that one has ended"
                )
            return False
        # Threads of a pool read streams for each other, so there a stream of this thread's may be read by another.
        own = holder.thread is here and here is threading.main_thread()
        if own or time.monotonic() - holder.read > PATIENCE:
            self._stop_stream()
            return True
        return False

    def _stop_stream(self) -> None:
        """End the run of the stream that is open, if there is one: here, before anything else can run."""
        stream, self.holder = self.holder, None
        self.changed.notify_all()
        if stream is not None:
            stream.stop()


class Turn:
    """One call's turn: begun, paused while a reader has the stream's last item, and ended."""

    def __init__(self, turns: Turns, stop: Callable[[], None]) -> None:
        self.stop = stop
        """Ends the call's run."""
        self.thread = threading.current_thread()
        """Who runs the call, or has read its last item."""
        self.paused = False
        """A stream waits for its reader: nothing of it runs."""
        self.read = 0.0
        """When its reader got the last item, in seconds of the monotonic clock."""
        self._turns = turns

    def begin(self) -> None:
        """Wait for the turn. Raises ControllerError as `Turns.wait` does."""
        self.thread = threading.current_thread()
        self._turns.wait(self)

    def pause(self) -> None:
        """The reader gets an item."""
        self.read = time.monotonic()
        self.paused = True

    def resume(self) -> None:
        """The reader wants the next item. Raises RuntimeError where another call has taken over."""
        with self._turns.changed:
            if self._turns.holder is not self:
                raise RuntimeError(
                    "another call was made on this model, or it was detached, before this stream ended; "
                    "read a stream to its end first, or close it"
                )
            self.paused = False
            self.thread = threading.current_thread()

    def end(self) -> None:
        """The call is over, whether or not it had begun: the next one may run."""
        with self._turns.changed:
            if self._turns.holder is not self:
                return
            self.paused = False
            self.thread = threading.current_thread()
        try:
            self.stop()
        finally:
            with self._turns.changed:
                self._turns.holder = None
                self._turns.changed.notify_all()
