"""An evaluation's runs in a file that the same command goes on with: a window of problems a line, not graded yet.

A window is what an evaluation makes at once, so which runs share forwards is the same wherever a job was stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

from reasonctl.controller import ControllerError
from reasonctl.controller.core import Fields

from ..runs.job_file import JobFile
from ..runs.records import MOST, RunRecord
from ..runs.worker import ArmRecord, Arms, AskedRun

FORMAT = 1
"""Version of the format that is written."""
_KEPT = ("tokens", "seconds", "answer", "exit", "drafted", "accepted")
"""Fields of an arm that are measured. The grade is made anew, and only --trace has the trace."""


class Evaluated(NamedTuple):
    """One problem's runs, before they are graded."""

    arms: Arms
    """Both arms."""
    record: RunRecord | None
    """The collected run. None: it wasn't asked for."""


@dataclass
class EvaluationFile(JobFile):
    """Windows of evaluated problems, one a line."""

    what: ClassVar[str] = "evaluated runs"
    versions: ClassVar[tuple[int, ...]] = (FORMAT,)
    free: ClassVar[frozenset[str]] = frozenset()
    """No setting: the last window of fewer problems isn't one of more."""

    def append(self, questions: Sequence[str], window: Sequence[Evaluated]) -> None:
        """Write a window and make sure that it is on the disk."""
        made = [
            {
                "question": question,
                "arms": [{name: getattr(arm, name) for name in _KEPT} for arm in one.arms],
                "record": None if one.record is None else one.record.to_json() | {"run": k},
            }
            for k, (question, one) in enumerate(zip(questions, window, strict=True))
        ]
        self._write({"problems": made})

    def read(self, windows: Sequence[Sequence[AskedRun]]) -> list[list[Evaluated]]:
        """The windows that are there, in order.

        Args:
            windows: Those of the job.

        Raises:
            ControllerError: A line is damaged, or holds other problems than the job's; the line is named.
        """
        found: list[list[Evaluated]] = []
        for number, value in self._lines():
            where = f"line {number} of {str(self.path)!r}"
            problems = [Fields.of(one, where) for one in Fields.of(value, where).items("problems")]
            asked = windows[len(found)] if len(found) < len(windows) else ()
            if [one.text("question") for one in problems] != [one.question for one in asked]:
                raise ControllerError(f"{where} holds other problems than this job's; move the file away")
            found.append([_evaluated(one, where, run.run) for one, run in zip(problems, asked, strict=True)])
        return found


def _evaluated(found: Fields, where: str, run: int) -> Evaluated:
    found.only(["question", "arms", "record"])
    arms = [_arm(Fields.of(one, where)) for one in found.items("arms")]
    if len(arms) != len(Arms._fields):
        raise ControllerError(f"{where} has {len(arms)} arms of a problem, not {len(Arms._fields)}")
    value = found.values["record"]
    record = None if value is None else replace(RunRecord.from_json(value, where), run=run)
    return Evaluated(Arms(*arms), record)


def _arm(found: Fields) -> ArmRecord:
    found.only(list(_KEPT))
    count: dict[str, Any] = {name: found.whole(name, 0, MOST) for name in ("tokens", "drafted", "accepted")}
    return ArmRecord(
        **count,
        seconds=found.number("seconds"),
        answer=found.text("answer"),
        exit=found.optional(lambda name: found.whole(name, 0, MOST), "exit"),
        why="",
        scores=(),
    )
