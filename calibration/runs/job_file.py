"""A file that a job appends to and can go on with: a header line with the job's settings, then JSON lines in order.

A job holds the file for itself while it appends. A killed job leaves at most one torn line at the end, which is cut off
when the file is opened again.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

from reasonctl.controller import ControllerError
from reasonctl.controller.core import Fields, lines, parse

from ..parallel.run_jobs import ProgressCallback, run_jobs
from .kept import OPENED

if sys.platform != "win32":
    import fcntl

T = TypeVar("T")

START_OVER = "move it away, or start over with --force"
MOST_HEADER = 1 << 20
"""Longest header, in bytes."""
START = b'{"format":'
"""What every such file begins with."""


class Header(NamedTuple):
    """The first line of a file."""

    settings: Fields
    """What two jobs must share to share the file."""
    version: int
    """Of the format."""


@dataclass
class JobFile:
    """Appends lines and reads them back."""

    what: ClassVar[str]
    """What the lines hold, for the errors."""
    versions: ClassVar[tuple[int, ...]]
    """The versions of the format that are read; the first is written."""
    free: ClassVar[frozenset[str]] = frozenset({"n"})
    """Settings in which two jobs may differ. The first problems of a stream, and so the lines, are the same for any n.
    """
    path: Path
    """The file."""
    settings: dict[str, Any]
    """The header's settings: those that two jobs must share to share the file."""
    temporary: bool = field(default=False, init=False, repr=False)
    """The file goes with the command, which starts anew."""
    _file: FileIO | None = field(default=None, init=False, repr=False)

    def open(self, *, force: bool) -> int:
        """Create the file, or cut its torn end off. Keeps other jobs out until `close`.

        Args:
            force: Whether a file of another job is started over.

        Returns:
            The number of lines that the file holds after its header.

        Raises:
            ControllerError: Another job is at work on the file, or it is another job's and `force` is false.
        """
        if self.path.is_dir():
            raise ControllerError(f"{str(self.path)!r} is a folder; the collected {self.what} need a file there")
        self._lock()
        if not self.temporary:
            OPENED.add(self.path)
        try:
            whole = self._cut_torn_tail()
            if whole:
                try:
                    self._check(whole.partition(b"\n")[0])
                    return whole.count(b"\n") - 1
                except ControllerError:
                    if not force:
                        raise
            os.truncate(self.path, 0)
            self._write({"format": self.versions[0], "settings": self.settings})
            return 0
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let other jobs in."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def check(self) -> None:
        """Raise ControllerError unless this job may go on in the file that is there; nothing is written."""
        self._check(self._first_line())

    def _first_line(self) -> bytes:
        with self.path.open("rb") as file:
            return file.readline(MOST_HEADER)

    def _lines(self) -> Iterator[tuple[int, Any]]:
        """(number, value) of each whole line after the header."""
        return ((n, value) for n, value in lines(self.path, f"collected {self.what}", torn_end=True) if n > 1)

    def _lock(self) -> None:
        """Open the file and lock it. The lock ends with the process, however that ends. On Windows there is none."""
        self.close()
        try:
            self._file = self.path.open("ab", buffering=0)
        except OSError as error:
            raise ControllerError(f"can't write {str(self.path)!r}: {error.strerror}") from None
        if sys.platform != "win32":
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                self.close()
                raise ControllerError(
                    f"another job is collecting into {str(self.path)!r}; wait for it, or give another --out"
                    if isinstance(error, BlockingIOError)
                    else f"can't lock {str(self.path)!r}: {error.strerror}; give an --out on a local disk"
                ) from None

    def _cut_torn_tail(self) -> bytes:
        """Cut an unfinished last line off the file, and return the rest."""
        data = self.path.read_bytes()
        if not data.startswith(START) and not START.startswith(data):
            raise ControllerError(
                f"{str(self.path)!r} is no file of collected {self.what}; move it away or give another --out"
            )
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            os.truncate(self.path, whole)
        return data[:whole]

    def _header(self, header: bytes, remedy: str) -> Header:
        """A header line, of a version that is read; the remedy is for the error where it is another line."""
        where = f"the header of {str(self.path)!r}"
        try:
            found = Fields.of(parse(header, where), where)
            settings, version = found.inner("settings"), found.whole("format")
        except ControllerError as error:
            raise ControllerError(
                f"{str(self.path)!r} is no file of collected {self.what} ({error}); {remedy}"
            ) from None
        if version not in self.versions:
            raise ControllerError(
                f"{str(self.path)!r} holds {self.what} in format {version!r}, this reasonctl writes "
                f"{self.versions[0]}; {remedy}"
            )
        return Header(settings, version)

    def _check(self, header: bytes) -> None:
        """Raise ControllerError unless this job may go on in a file with this header."""
        found = self._header(header, START_OVER)
        if found.version != self.versions[0]:
            raise ControllerError(
                f"{str(self.path)!r} holds {self.what} in format {found.version}, which is read but not gone on with; "
                "give another --out, or start over with --force"
            )
        self._compare(found.settings.values, json.loads(json.dumps(self.settings)))

    def _compare(self, stored: dict[str, Any], wanted: dict[str, Any]) -> None:
        """Raise ControllerError where the settings of a file aren't this job's."""
        names = (wanted.keys() | stored.keys()) - self.free
        different = sorted(name for name in names if wanted.get(name) != stored.get(name))
        if different:
            raise ControllerError(
                f"{str(self.path)!r} holds {self.what} collected with another {', '.join(different)}; "
                "give the old settings to resume, another --out, or --force to start over"
            )

    def _write(self, values: dict[str, Any]) -> None:
        """Append a line and sync it; a line that fails half-way, or is interrupted, is taken back."""
        assert self._file is not None, "open() first"
        line = line_of(values)
        whole = os.fstat(self._file.fileno()).st_size
        try:
            rest = memoryview(line)
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        except BaseException as error:
            self._file.truncate(whole)
            if not isinstance(error, OSError):
                raise
            raise ControllerError(
                f"can't write {str(self.path)!r}: {error.strerror}; finished runs are safe, "
                "run the same command again when there is room"
            ) from None


def line_of(values: dict[str, Any]) -> bytes:
    """A line of the file, its line feed included; the same values give the same bytes."""
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


def append_made(
    work: Callable[..., T],
    jobs: Sequence[tuple[Any, ...]],
    append: Callable[[int, T], None],
    *,
    done: int,
    workers: int,
    progress: ProgressCallback,
) -> None:
    """Do the jobs that a file doesn't hold yet, and append what each made, in order.

    Args:
        work: What is done; it may run in another process.
        jobs: The arguments of each; all of them.
        append: Writes what the job of a number made.
        done: Jobs that the file holds.
        workers: Number of processes.
        progress: Called before the first job, and after each.
    """
    progress(min(done, len(jobs)), len(jobs))
    with closing(run_jobs(work, jobs[done:], workers=workers)) as results:
        for i, made in enumerate(results, done):
            append(i, made)
            progress(i + 1, len(jobs))
