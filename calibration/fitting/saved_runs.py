"""The runs saved next to a probe file: whether they are the ones that it was made from, and their two roles.

Owns the way from a file of runs back to its probe; collects and fits nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from reasonctl.controller import ControllerError
from reasonctl.probes.files import Card, ProbeFile

from ..runs.cue_sets import with_cues
from ..runs.records import RunRecord
from ..runs.run_file import RunFile, digest_of, stored_form
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
    file = RunFile(path, {})
    records, form = file.read(), stored_form(file.stored_settings())
    if form != content.card.form:
        raise ControllerError(
            f"{str(path)!r} holds exits of the form {form}, and the probe file was made from exits of the form "
            f"{content.card.form}; move it away, or make the probe again with ctl calibrate --form {content.card.form}"
        )
    halves(content, records)
    return records[: _count(content)]


def halves(content: ProbeFile, records: Sequence[RunRecord]) -> Halves:
    """The fitting and the calibration runs of a probe file.

    The file of runs may have grown since: the first runs of a stream are the same for every number of runs.

    Raises:
        ControllerError: These aren't the runs that the probe file was made from.
    """
    card, n = content.card, _count(content)
    parts = [[records[i] for i in part if i < len(records)] for part in _roles(card, n)]
    fitting, found = (with_cues(part, card.cues, card.max_cues) for part in parts)
    same = [record.problem for record in found] == content.table.problem.tolist()
    same = same and card.runs_sha256 in ("", digest_of(parts[1]))
    positions = [cue.position for record in found for cue in record.cues]
    if len(records) < n or not same or positions != content.table.positions.tolist():
        raise ControllerError(
            "the collected runs next to the probe file aren't the ones that it was made from; move them away, or make "
            "the probe again with ctl calibrate"
        )
    return Halves(fitting, found)


def _roles(card: Card, n: int) -> tuple[Sequence[int], Sequence[int]]:
    """The indices of the fitting and of the calibration runs."""
    fit, seed = card.runs.get("fit", 0), card.seeds.get("seed")
    if seed is None or n < 2:
        raise ControllerError(
            "the card of the probe file names no seed and runs, so that its runs can't be distinguished"
        )
    return (range(fit), range(fit, n)) if card.runs_sha256 else split(n, seed)


def _count(content: ProbeFile) -> int:
    return sum(content.card.runs.values())
