"""Keys that a command answers while it runs: Ctrl-C stops it, and in `ctl run` Ctrl-\\ asks for the answer.

The first Ctrl-C stops in order, the second at once. Neither loses a finished run or leaves a worker running.
"""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

from ..runs.kept import what_is_left
from .terminal import one_line

if TYPE_CHECKING:
    from reasonctl.controller import AnswerNow

CODE = 130
"""Exit code after Ctrl-C."""


def stop_at_once(*_: Any) -> NoReturn:
    os.write(2, f"\nStopped at once.{one_line(what_is_left())}\n".encode())
    os._exit(CODE)


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise KeyboardInterrupt at the first Ctrl-C, and end the process at the second.

    The second one works during the clean-up too. It needs no clean-up of its own: runs are written whole, and workers
    end when their parent is gone.
    """

    def first(*_: Any) -> NoReturn:
        threading.excepthook = lambda _: None  # errors of threads only say that they were stopped
        os.write(2, b"\nStopping. Ctrl-C again stops at once.\n")
        stop()

    def stop(*_: Any) -> NoReturn:
        signal.signal(signal.SIGINT, stop_at_once)
        raise KeyboardInterrupt

    def lost(what: sys.UnraisableHookArgs) -> None:
        """Raise KeyboardInterrupt again where C code threw it away, as llama.cpp's callbacks do."""
        if what.exc_type is not KeyboardInterrupt:
            before(what)
            return
        signal.signal(signal.SIGINT, stop)
        again = threading.Timer(0.01, _thread.interrupt_main)
        again.daemon = True
        again.start()

    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield  # in the background, or under a program with its own idea of Ctrl-C
        return
    before, sys.unraisablehook = sys.unraisablehook, lost
    signal.signal(signal.SIGINT, first)
    try:
        yield
    finally:
        sys.unraisablehook = before
        if signal.getsignal(signal.SIGINT) is first:
            signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def answering(now: AnswerNow) -> Iterator[None]:
    """Let Ctrl-\\ close the thinking of the run that `now` belongs to; where there is no such signal, nothing does."""
    if sys.platform == "win32" or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(*_: Any) -> None:
        if not now.ask():
            os.write(2, b"\nThe model isn't thinking: nothing to close.\n")

    before = signal.signal(signal.SIGQUIT, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGQUIT, before)
