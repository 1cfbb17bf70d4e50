"""The runs saved next to a probe file: whether they are the ones that it was made from, and its two halves of them.

Owns the way from a file of runs back to its probe; collects and fits nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from reasonctl.controller import ControllerError
from reasonctl.probes.files import ProbeFile

from ..runs.cue_sets import with_cues
from ..runs.records import RunRecord
from ..runs.run_file import RunFile
from ..runs.splits import runs_path, split


class Halves(NamedTuple):
    """The runs of a probe file in the order of the job, with the card's cues."""

    fitting: list[RunRecord]
    """The runs that the probe was fitted on."""
    calibration: list[RunRecord]
    """The runs of its table."""


def saved_runs(probe: Path, content: ProbeFile) -> list[RunRecord] | None:
    """The runs that a probe file was made from, None if they aren't saved; ControllerError if others are."""
    path = runs_path(probe)
    if not path.is_file():
        return None
    records = RunFile(path, {}).read()
    halves(content, records)
    return records[: _count(content)]


def halves(content: ProbeFile, records: Sequence[RunRecord]) -> Halves:
    """The two halves of a probe file's runs.

    The file of runs may have grown since: the first runs of a stream are the same for every number of runs.

    Raises:
        ControllerError: These aren't the runs that the probe file was made from.
    """
    n, seed = _count(content), content.card.seeds.get("seed")
    if seed is None or n < 2:
        raise ControllerError("the card of the probe file names no seed and runs, so that its runs can't be told apart")
    parts = [[records[i] for i in part if i < len(records)] for part in split(n, seed)]
    fitting, found = (with_cues(part, content.card.cues, content.card.max_cues) for part in parts)
    same = [record.problem for record in found] == content.table.problem.tolist()
    positions = [cue.position for record in found for cue in record.cues]
    if len(records) < n or not same or positions != content.table.positions.tolist():
        raise ControllerError(
            "the collected runs next to the probe file aren't the ones that it was made from; move them away, or make "
            "the probe again with ctl calibrate"
        )
    return Halves(fitting, found)


def _count(content: ProbeFile) -> int:
    return sum(content.card.runs.values())
