"""Work on what others wrote, each piece in a process of its own that is bounded in time and memory.

A helper process starts once, imports what the work needs, and forks for each request. A fork takes a millisecond and
can be ended wherever it is; a thread can't be. `ForkedCalls` is the caller's side, `answer_forever` the helper's.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from .errors import ControllerError
from .json_text import parse

if sys.platform != "win32":
    import resource

WALL_SECONDS = 60.0
"""Wall time of one request: the last resort, for what no processor time bounds."""
START_SECONDS = 180.0
"""Wall time in which a helper must have imported what it needs."""
READY = b"ready\n"
"""A helper's first line."""
MOST_ANSWER = 1 << 24
"""Longest answer, in bytes."""
TOO_MUCH = "it takes too much time or memory"
"""What is said of a request that reached a bound."""

Answer = dict[str, Any]


class ForkedCalls:
    """Requests to a helper process, one at a time, from any thread. It starts with the first request.

    A helper that doesn't answer is ended, and the next request starts another one.
    """

    def __init__(self, module: str, first: Answer | None = None, wall_seconds: float = WALL_SECONDS) -> None:
        """Nothing is started yet.

        Args:
            module: The helper's module, which calls `answer_forever` when it is run.
            first: What each helper is sent before its first request.
            wall_seconds: Wall time of one request.
        """
        self._module = module
        self._first = first
        self._seconds = wall_seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def call(self, request: Answer) -> Answer:
        """The answer to a request; {"error": one line} where it reached a bound."""
        with self._lock:
            try:
                process = self._process or self._start()
                self._write(process, request)
                line = self._line(process, self._seconds)
            except (OSError, ValueError):
                line = b""
            if not line:
                self._end()
                return {"error": TOO_MUCH}
        try:
            answer = parse(line, "the answer")
        except ControllerError as refused:
            return {"error": str(refused)}
        return answer if isinstance(answer, dict) else {"error": TOO_MUCH}

    def close(self) -> None:
        """End the helper, if there is one."""
        with self._lock:
            self._end()

    def _start(self) -> subprocess.Popen[bytes]:
        # -P: the folder that the command was given in is no place to import from.
        command = [sys.executable, "-P", "-m", self._module]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
        )
        if self._first is not None:
            self._write(self._process, self._first)
        if self._line(self._process, START_SECONDS) != READY:
            raise OSError("the helper doesn't start")
        return self._process

    @staticmethod
    def _write(process: subprocess.Popen[bytes], request: Answer) -> None:
        assert process.stdin is not None
        process.stdin.write(json.dumps(request).encode() + b"\n")
        process.stdin.flush()

    @staticmethod
    def _line(process: subprocess.Popen[bytes], seconds: float) -> bytes:
        """The next line of the helper; b"" where none comes in this time."""
        assert process.stdout is not None
        output, until, line = process.stdout.fileno(), time.monotonic() + seconds, bytearray()
        while not line.endswith(b"\n"):
            left = until - time.monotonic()
            if left <= 0 or len(line) > MOST_ANSWER or not select.select([output], [], [], left)[0]:
                return b""
            part = os.read(output, 1 << 16)
            if not part:
                return b""
            line += part
        return bytes(line)

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with suppress(BrokenPipeError):
                if pipe is not None:
                    pipe.close()


def answer_forever(handle: Callable[[Answer], Answer], seconds: int, memory: int) -> None:
    """Answer the requests of standard input, each in a fork of this process, until there are no more.

    Args:
        handle: Answers one request.
        seconds: Processor time of each.
        memory: Bytes that each may take beyond what this process has.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the caller's to handle
    sys.stdout.buffer.write(READY)
    sys.stdout.buffer.flush()
    for line in sys.stdin.buffer:
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read)
            _answer(handle, line, write, seconds, memory)
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            answer = pipe.read(MOST_ANSWER)
        _, status = os.waitpid(child, 0)
        if status != 0 or not answer.endswith(b"\n"):
            answer = json.dumps({"error": TOO_MUCH}).encode() + b"\n"
        sys.stdout.buffer.write(answer)
        sys.stdout.buffer.flush()


def _answer(handle: Callable[[Answer], Answer], line: bytes, write: int, seconds: int, memory: int) -> None:
    """The child: answers, and ends without cleaning up what its parent owns."""
    status = 1
    try:
        limit_process(seconds, _mapped() + memory)
        answer = handle(json.loads(line))
        with os.fdopen(write, "wb") as pipe:
            pipe.write(json.dumps(answer).encode() + b"\n")
        status = 0
    finally:
        os._exit(status)


def limit_process(seconds: int, memory: int) -> None:
    """Bound this process: so much processor time and address space, and no files.

    Args:
        seconds: Processor time; the operating system ends the process then, wherever it is.
        memory: Bytes of address space; not enforced by every macOS, where time is the bound.
    """
    bounds = ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CPU, seconds), (resource.RLIMIT_FSIZE, 0))
    for kind, most in bounds:
        try:
            resource.setrlimit(kind, (most, most))
        except (ValueError, OSError):
            continue  # a system that knows no such bound, or a lower one in force


def _mapped() -> int:
    """Bytes of address space that this process has; 0 where the system doesn't say."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        return 0
