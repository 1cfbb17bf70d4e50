"""Ctrl-C: once stops in an orderly way, twice at once. Neither loses a finished run or leaves a worker behind."""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

CODE = 130


def stop_at_once(*_: Any) -> NoReturn:
    os.write(2, b"\nStopped at once. What was collected is kept: run the same command again to go on.\n")
    os._exit(CODE)


@contextmanager
def interruptible() -> Iterator[None]:
    """KeyboardInterrupt at the first Ctrl-C; a second one ends the process, whatever it is doing then.

    After a first one the second stays armed, for the clean-up that follows. Runs are written whole, and workers
    end when their parent is gone, so that nothing has to be done at the second.
    """

    def first(*_: Any) -> NoReturn:
        threading.excepthook = lambda _: None  # what a thread says from now on comes of being stopped
        os.write(2, b"\nStopping. Ctrl-C again stops at once.\n")
        stop()

    def stop(*_: Any) -> NoReturn:
        signal.signal(signal.SIGINT, stop_at_once)
        raise KeyboardInterrupt

    def lost(what: sys.UnraisableHookArgs) -> None:
        """C code that calls Python, as llama.cpp's callbacks do, throws exceptions away: this one is raised anew."""
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
