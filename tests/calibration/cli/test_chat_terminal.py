"""`ctl chat` at a terminal: several lines, history, Ctrl-C, Ctrl-\\ and dimmed thoughts, through a pseudo-terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

QUESTION = "48 a-9 b+6 c-3"
DIM = "\x1b[2m"
END = "a second"
COMMAND = [sys.executable, "-c", "from reasonctl.calibration.cli.main import main; main()", "chat", "tiny"]
LONG = ["--threads", "1", "--probe", "none", "--policy", "temperature(6)", "--max-new-tokens", "700", "--seed", "1"]
"""The first two answers of these seeds, each of a new conversation, think for 700 and 330 tokens."""


class Terminal:
    """A user's side of a terminal."""

    def __init__(self, end: int) -> None:
        self._end = end
        self._unread = ""

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._end, text.encode())

    def read(self, until: str, seconds: float = 60.0) -> str:
        """What is printed next, up to a text. Fails where it doesn't come."""
        found, end = self._unread, time.monotonic() + seconds
        while until not in found:
            assert time.monotonic() < end, f"{until!r} isn't in {found!r}"
            if select.select([self._end], [], [], 0.1)[0]:
                part = os.read(self._end, 1 << 16).decode(errors="replace")
                found += part
                if "\x1b[6n" in part:  # where is the cursor?
                    self.type("\x1b[1;1R")
        found, until, self._unread = found.partition(until)
        return found + until

    def prompt(self) -> None:
        """Wait until something may be typed."""
        self.read("\x1b[?2004h")


@contextmanager
def chatting(*flags: str) -> Iterator[Terminal]:
    """`ctl chat` at a terminal of its own."""
    process, end = pty.fork()
    if process == 0:
        os.execvpe(COMMAND[0], [*COMMAND, *flags], {**os.environ, "TERM": "xterm-256color"})
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    try:
        yield Terminal(end)
    finally:
        with suppress(ProcessLookupError):
            os.kill(process, 9)
        os.waitpid(process, 0)
        os.close(end)


@pytest.mark.slow
def test_a_conversation_at_a_terminal() -> None:
    with chatting("--threads", "1") as user:
        user.prompt()
        user.type(f"{QUESTION}\r")
        answer = user.read(END)
        assert f"{DIM}First" in answer and f"{DIM}The" not in answer and "The answer is 42." in answer
        user.prompt()
        user.type("/system one\x1b\rtwo\r")  # Escape and Enter: another line
        user.prompt()
        user.type("/why\r")
        assert "exited at cue" in user.read("exited at cue")
        user.prompt()
        user.type("/new\r")
        user.prompt()
        user.type("\x1b[A" * 5 + "\r")  # four back, of which one has two lines
        again = user.read(END)
        assert QUESTION in again and "The answer is" in again
        user.prompt()
        user.type("half a mess\x03")  # Ctrl-C at the prompt: forgotten
        user.prompt()
        user.type("\x04")
        assert re.search(
            r"2 answers: \d+ tokens, \d+ of them thoughts, [\d.]+ a second, about \d+ saved", user.read("saved")
        )


@pytest.mark.slow
def test_keys_that_stop_an_answer_or_close_its_thinking() -> None:
    with chatting(*LONG) as user:
        user.prompt()
        user.type(f"{QUESTION}\r")
        user.read(DIM)
        user.type("\x03")
        stopped = user.read("stopped")
        assert "700 tokens" not in stopped
        user.prompt()
        user.type("/new\r")
        user.prompt()
        user.type(f"{QUESTION}\r")
        user.read(DIM)
        user.type("\x1c")
        user.read(END)
        user.prompt()
        user.type("/why\r")
        user.read("answer_now closed thinking")
