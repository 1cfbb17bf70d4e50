"""The file of collected runs: a header line, then one JSON line per run, in order, append-only.

After the runs that fit stands one more line: the plan, which was made from them and never changes.
docs/runs-format.md says what each field means, and records.py has the fields as types. A job holds the file for itself
while it appends. A killed job leaves at most one torn line at the end, which is cut off when the file is opened again.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple

from reasonctl.controller import Closing, ControllerError, ExitForm
from reasonctl.controller.core import Fields, lines, parse
from reasonctl.controller.thinking import ANSWER_ENDS, parse_form

from .cue_sets import check_job
from .records import FORMAT, MOST, OLD_FORMAT, RunRecord

if sys.platform != "win32":
    import fcntl

_START_OVER = "move it away, or start over with --force"
_OF_A_JOB = "give the .runs.jsonl that a job of this version wrote"
MOST_HEADER = 1 << 20
"""Longest header, in bytes."""
START = b'{"format":'
"""What every file of collected runs begins with."""


class _Header(NamedTuple):
    """The first line of a file."""

    settings: Fields
    """What two jobs must share to share the file."""
    version: int
    """Of the format."""


def fitting_runs(settings: Fields) -> int:
    """How many runs fit, by a file's settings. 0: the file has no plan."""
    return settings.whole("fit", 0, MOST) if "fit" in settings else 0


def stored_closing(settings: Fields) -> Closing:
    """How the runs of a file with these settings close thinking, and what ends the answers of their trials.

    Raises:
        ControllerError: The settings name no suffix, or no known end of an answer.
    """
    ends = settings.text("answer_ends") if "answer_ends" in settings else "model"
    found = next((known for known in ANSWER_ENDS if known == ends), None)
    if found is None:
        settings.refuse("answer_ends", f"one of {', '.join(ANSWER_ENDS)}")
    return Closing(settings.text("suffix"), found)


def stored_form(settings: Fields) -> ExitForm:
    """The form of the exits that were tried in the runs of a file with these settings; ControllerError for no form."""
    return parse_form(settings.text("form")) if "form" in settings else "replace"


@dataclass
class RunFile:
    """Appends runs and reads them back."""

    path: Path
    """The file."""
    settings: dict[str, Any]
    """The header's settings: those that two jobs must share to share the file."""
    _file: FileIO | None = field(default=None, init=False, repr=False)

    def open(self, *, force: bool) -> int:
        """Create the file, or cut its torn end off. Keeps other jobs out until `close`.

        Args:
            force: Whether a file of another job is started over.

        Returns:
            The number of runs that the file holds.

        Raises:
            ControllerError: Another job is at work on the file, or it is another job's and `force` is false.
        """
        if self.path.is_dir():
            raise ControllerError(f"{str(self.path)!r} is a folder; the collected runs need a file there")
        self._lock()
        try:
            whole = self._cut_torn_tail()
            if whole:
                try:
                    self._check(whole.partition(b"\n")[0])
                    lines_after = whole.count(b"\n") - 1
                    return lines_after - (1 if 0 < self.fit < lines_after else 0)
                except ControllerError:
                    if not force:
                        raise
            os.truncate(self.path, 0)
            self._write({"format": FORMAT, "settings": self.settings})
            return 0
        except BaseException:
            self.close()
            raise

    def append(self, record: RunRecord) -> None:
        """Write one run and make sure that it is on the disk."""
        self._write(record.to_json())

    def append_plan(self, plan: dict[str, Any]) -> None:
        """Write what the fitting runs decided; it belongs right after them."""
        self._write({"plan": plan})

    def close(self) -> None:
        """Let other jobs in."""
        if self._file is not None:
            self._file.close()
            self._file = None

    @property
    def fit(self) -> int:
        """How many of the job's runs fit. 0: the job has no plan."""
        return int(self.settings.get("fit", 0))

    def read(self) -> list[RunRecord]:
        """All runs, in order.

        Raises:
            ControllerError: The file is in another format, or one of its lines is no run. The message names the line.
        """
        header = self._header(self._first_line(), _OF_A_JOB)
        try:
            fit = fitting_runs(header.settings)
            records = [
                RunRecord.from_json(value, f"line {number} of {str(self.path)!r}", header.version)
                for number, value in self._lines()
                if not (fit and number == fit + 2)
            ]
            check_job(records, header.settings)
        except ControllerError as error:
            raise ControllerError(f"{error}; the file was changed: move it away, and collect again") from None
        return records

    def read_plan(self) -> Fields | None:
        """The plan; None if the file holds none. ControllerError if what stands in its place is no plan."""
        fit = fitting_runs(self.stored_settings())
        for number, value in self._lines() if fit else ():
            if number == fit + 2:
                found = Fields.of(value, f"line {number} of {str(self.path)!r}")
                found.only(["plan"])
                return found.inner("plan")
        return None

    def stored_settings(self) -> Fields:
        """The settings of the job that wrote the file.

        Raises:
            ControllerError: The file is in another format.
        """
        return self._header(self._first_line(), _OF_A_JOB).settings

    def begun(self) -> Fields | None:
        """The settings of the job that began the file; None where none has written its header whole.

        Raises:
            ControllerError: The file is in another format.
        """
        if not self.path.is_file():
            return None
        header = self._first_line()
        return self._header(header, _START_OVER).settings if header.endswith(b"\n") else None

    def check(self) -> None:
        """Raise ControllerError unless this job may go on in the file that is there; nothing is written."""
        self._check(self._first_line())

    def _first_line(self) -> bytes:
        with self.path.open("rb") as file:
            return file.readline(MOST_HEADER)

    def _lines(self) -> Iterator[tuple[int, Any]]:
        """(number, value) of each whole line after the header."""
        return ((n, value) for n, value in lines(self.path, "collected runs", torn_end=True) if n > 1)

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
                f"{str(self.path)!r} is no file of collected runs; move it away or give another --out"
            )
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            os.truncate(self.path, whole)
        return data[:whole]

    def _header(self, header: bytes, remedy: str) -> _Header:
        """A header line, of this format or of the one before; the remedy is for the error where it is another line."""
        where = f"the header of {str(self.path)!r}"
        try:
            found = Fields.of(parse(header, where), where)
            settings, version = found.inner("settings"), found.whole("format")
        except ControllerError as error:
            raise ControllerError(f"{str(self.path)!r} is no file of collected runs ({error}); {remedy}") from None
        if version not in (FORMAT, OLD_FORMAT):
            raise ControllerError(
                f"{str(self.path)!r} holds runs in format {version!r}, this reasonctl writes {FORMAT}; {remedy}"
            )
        return _Header(settings, version)

    def _check(self, header: bytes) -> None:
        """Raise ControllerError unless this job may go on in a file with this header."""
        found = self._header(header, _START_OVER)
        if found.version == OLD_FORMAT:
            raise ControllerError(
                f"{str(self.path)!r} holds runs in format {OLD_FORMAT}, which is read but not gone on with; give "
                "another --out, or start over with --force"
            )
        settings = found.settings.values
        wanted = json.loads(json.dumps(self.settings))
        # `n` is what the first job asked for: the first problems of a stream, and so the runs, are the same for any.
        names = (wanted.keys() | settings.keys()) - {"n", "closings"}
        different = sorted(name for name in names if wanted.get(name) != settings.get(name))
        if different:
            raise ControllerError(
                f"{str(self.path)!r} holds runs collected with another {', '.join(different)}; "
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


def digest_of(records: Iterable[RunRecord]) -> str:
    """The sha256 of the lines of some runs."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(line_of(record.to_json()))
    return digest.hexdigest()
