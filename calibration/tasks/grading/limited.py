"""A process that computes for this one under limits of time and memory, for code that can't be trusted to end.

The limits hold in any thread, in any process and on any system, as no signal handler is involved. The process is
started at the first call, once for each process that calls. It limits its own processor time where the system can, so
that a busy machine changes no result, and its time on the clock everywhere, by a thread in C that needs no interpreter
lock. Past a limit it is gone; the caller reads the end of its output, and the next call starts another one. It also
ends when its caller does.

This file is what the process runs, so it imports nothing of its package.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import importlib
import json
import os
import pickle
import signal
import site
import struct
import subprocess
import sys
import threading
import time
from io import FileIO
from typing import Any

START_SECONDS = 120.0
"""On the clock, to start and to import a function; more means that something is broken."""

CLOCK = 5 if sys.platform == "win32" else 30
"""Seconds on the clock for each second of processor time; more where the processor time itself is limited."""

MEMORY = 4 << 30
"""Bytes of address space."""


class LimitedProcess:
    """Calls functions by name in one process; calls of several threads take turns."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        if sys.platform != "win32":
            os.register_at_fork(after_in_child=self._forget)

    def call(self, function: str, *arguments: object, seconds: float) -> Any:
        """What `module:function` returns for some values, as JSON has it; None past the limit or if it raises.

        Args:
            function: Name of a function that an import finds.
            arguments: Values that pickle can write.
            seconds: Processor time of the call, imports excluded.

        Raises:
            RuntimeError: The process doesn't start, or the function can't be imported there.
        """
        request = pickle.dumps((function, arguments, seconds))
        with self._lock:
            process = self._started()
            killer = threading.Timer(START_SECONDS + CLOCK * seconds, process.kill)
            killer.daemon = True
            killer.start()
            reply = None
            try:
                _ask(process, request)
                ready = _answer(process)
                if ready is None or "error" in ready:
                    raise RuntimeError(
                        f"the process that runs {function} {(ready or {}).get('error', 'did not start')}"
                    )
                reply = _answer(process)
            finally:
                killer.cancel()
                if reply is None:
                    self._end()
            return reply and reply["value"]

    def close(self) -> None:
        """End the process; the next call starts one."""
        with self._lock:
            self._end()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._end()
        # -S: only the standard library is there at first, so that the caller's path comes after it.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-S", os.path.abspath(__file__), *filter(None, sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        )
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            _close(process)

    def _forget(self) -> None:
        """After a fork the process is the parent's; only its pipes are here too, and would keep it from ending."""
        process, self._process = self._process, None
        self._lock = threading.Lock()
        if process is not None:
            process.returncode = 0
            _close(process)


def _close(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def _ask(process: subprocess.Popen[bytes], request: bytes) -> None:
    message = memoryview(struct.pack(">I", len(request)) + request)
    with contextlib.suppress(BrokenPipeError):  # then there is no answer either
        while message and process.stdin:
            message = message[process.stdin.write(message) :]


def _answer(process: subprocess.Popen[bytes]) -> dict[str, Any] | None:
    """One reply; None if the process ended."""
    assert process.stdout
    head = _read(process.stdout, 4)
    body = _read(process.stdout, struct.unpack(">I", head)[0]) if head else None
    return None if body is None else dict(json.loads(body))


def _read(pipe: Any, size: int) -> bytes | None:
    data = b""
    while len(data) < size:
        part = pipe.read(size - len(data))
        if not part:
            return None
        data += part
    return data


def _serve(requests: FileIO, replies: FileIO, nowhere: int) -> None:
    """Answer requests until there are no more: once when the function is there, once with its value."""

    def reply(value: dict[str, Any]) -> None:
        body = json.dumps(value).encode()
        replies.write(struct.pack(">I", len(body)) + body)

    while head := _read(requests, 4):
        body = _read(requests, struct.unpack(">I", head)[0])
        if body is None:
            return
        name, arguments, seconds = pickle.loads(body)
        module, _, function = name.partition(":")
        try:
            called = getattr(importlib.import_module(module), function)
        except (ImportError, AttributeError) as error:
            reply({"error": f"can't import it: {error}"})
            continue
        reply({"ready": True})
        _limit_processor(seconds)
        faulthandler.dump_traceback_later(CLOCK * seconds, exit=True, file=nowhere)
        value = called(*arguments)
        faulthandler.cancel_dump_traceback_later()
        reply({"value": value})


def _limit_processor(seconds: float) -> None:
    """Processor time from now on, in whole seconds; the system ends the process when it is used up."""
    if sys.platform != "win32":
        import resource

        most = int(time.process_time() + seconds) + 1
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_CPU, (most, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def _limit_memory() -> None:
    if sys.platform != "win32":
        import resource

        for limit, most in ((resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_CORE, 0)):
            with contextlib.suppress(ValueError, OSError):  # macOS has no limit of address space
                resource.setrlimit(limit, (most, resource.getrlimit(limit)[1]))


def _main(path: list[str]) -> None:
    """Serve on the standard streams.

    Args:
        path: Where to import from, after the standard library: a caller's folder may hold a file of its name.
    """
    sys.path += path
    site.main()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the caller, whose end is this one's end too
    _limit_memory()
    requests, replies = FileIO(os.dup(0)), FileIO(os.dup(1), "w")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1):
        os.dup2(nowhere, standard)
    _serve(requests, replies, nowhere)


LIMITED = LimitedProcess()
"""The one of this process."""

if __name__ == "__main__":
    _main(sys.argv[1:])
else:
    atexit.register(LIMITED.close)
