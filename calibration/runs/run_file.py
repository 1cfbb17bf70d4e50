"""The file of collected runs: a header line, then one JSON line per run, in order, append-only.

After the runs that fit stands one more line: the plan, which was made from them and never changes.
docs/runs-format.md says what each field means, and records.py has the fields as types.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from reasonctl.controller import Closing, ControllerError, ExitForm
from reasonctl.controller.core import Fields
from reasonctl.controller.thinking import ANSWER_ENDS, parse_form

from .cue_sets import check_job
from .job_file import START_OVER, JobFile, line_of
from .records import FORMAT, MOST, OLD_FORMAT, RunRecord

_OF_A_JOB = "give the .runs.jsonl that a job of this version wrote"
_ALONE = {"batch": 1}
"""Settings of files from before runs could be decoded together."""


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
class RunFile(JobFile):
    """Appends runs and reads them back."""

    what: ClassVar[str] = "runs"
    versions: ClassVar[tuple[int, ...]] = (FORMAT, OLD_FORMAT)
    free: ClassVar[frozenset[str]] = frozenset({"n", "closings"})

    def open(self, *, force: bool) -> int:
        """As `JobFile.open`; returns the number of runs, without the plan."""
        lines_after = super().open(force=force)
        return lines_after - (1 if 0 < self.fit < lines_after else 0)

    def append(self, record: RunRecord) -> None:
        """Write one run and make sure that it is on the disk."""
        self._write(record.to_json())

    def append_plan(self, plan: dict[str, Any]) -> None:
        """Write what the fitting runs decided; it belongs right after them."""
        self._write({"plan": plan})

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
        return self._header(header, START_OVER).settings if header.endswith(b"\n") else None

    def _compare(self, stored: dict[str, Any], wanted: dict[str, Any]) -> None:
        if "source" in stored and "log" not in stored:
            wanted = {name: value for name, value in wanted.items() if name != "log"}  # from before logs had a digest
        super()._compare(_ALONE | stored, _ALONE | wanted)


def digest_of(records: Iterable[RunRecord]) -> str:
    """The sha256 of the lines of some runs."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(line_of(record.to_json()))
    return digest.hexdigest()
