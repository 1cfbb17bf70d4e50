"""The runs kept beside a probe file: whether they are the ones that it was made from, and its two halves of them.

Owns the way from a file of runs back to its probe; collects and fits nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reasonctl.controller import ControllerError
from reasonctl.probes.files.probe_file import ProbeFile

from ..runs.cue_sets import with_cues
from ..runs.run_file import RunFile
from ..runs.splits import runs_path, split

Records = list[dict[str, Any]]


def kept_runs(probe: Path, content: ProbeFile) -> Records | None:
    """The runs behind a probe file, None if they are not beside it; ControllerError if others are."""
    path = runs_path(probe)
    if not path.is_file():
        return None
    records = RunFile(path, {}).read()
    halves(content, records)
    return records[: _count(content)]


def halves(content: ProbeFile, records: Sequence[dict[str, Any]]) -> tuple[Records, Records]:
    """(fitting, calibration) records in the order of the job, with the card's cues.

    The file may have grown since: the first runs of a stream are the same for every number of runs.
    """
    n = _count(content)
    parts = [[records[i] for i in part if i < len(records)] for part in split(n, content.card.seeds["seed"])]
    fitting, found = (with_cues(part, content.card.cues, content.card.max_cues) for part in parts)
    same = [record["problem"] for record in found] == content.table.problem.tolist()
    positions = [cue["position"] for record in found for cue in record["cues"]]
    if len(records) < n or not same or positions != content.table.positions.tolist():
        raise ControllerError(
            "the collected runs beside the probe file aren't the ones that it was made from; move them away, or make "
            "the probe again with ctl calibrate"
        )
    return fitting, found


def _count(content: ProbeFile) -> int:
    return sum(content.card.runs.values())
