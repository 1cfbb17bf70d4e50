"""Recorded runs under fewer cues than they were collected at, and checks that records are of one job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from reasonctl.controller import ControllerError, Cues
from reasonctl.controller.core import Fields

from .records import CueRecord, RunRecord


def with_cues(records: Sequence[RunRecord], names: Sequence[str], max_cues: int) -> list[RunRecord]:
    """The records that a job with fewer cues would have collected.

    Args:
        records: The runs as they were collected.
        names: The cues, some of those of the job.
        max_cues: Most cues of a run.
    """
    wanted = Cues(names).names
    return [_with_cues(record, wanted, max_cues) for record in records]


def check_collected(names: Sequence[str], collected: Sequence[str]) -> None:
    """Raise ControllerError if one of the cues `names` isn't among those that runs were collected at."""
    known = Cues(collected).names
    strange = [name for name in Cues(names).names if name not in known]
    if strange:
        raise ControllerError(
            f"these runs were collected at the cues {', '.join(known)}; nothing is known of {', '.join(strange)}"
        )


def check_job(records: Sequence[RunRecord], settings: Fields) -> None:
    """Check that records can be those of one job: in order, with its cues and one width of hidden states.

    Raises:
        ControllerError: They can't.
    """
    known = set(Cues(settings.texts("cues")).names) if "cues" in settings else None
    width = None
    for index, record in enumerate(records):
        if record.run != index:
            raise ControllerError(f"run {record.run} stands where run {index} belongs")
        for cue in [*record.cues, *record.others]:
            if known is not None and not known.issuperset(cue.names):
                raise ControllerError(f"run {index} has a cue {cue.name!r:.40}, which its job didn't look for")
            width = len(cue.state) if width is None else width
            if len(cue.state) != width:
                raise ControllerError(f"run {index} has a hidden state of {len(cue.state)} values, others {width}")


def _with_cues(record: RunRecord, wanted: Sequence[str], max_cues: int) -> RunRecord:
    """The record under the wanted cues.

    A rule is asked once a row, at the wanted cue that begins first. The cues of a row are in the order of their begins.
    """
    chosen: list[CueRecord] = []
    left: list[CueRecord] = []
    for cue in sorted([*record.cues, *record.others], key=lambda cue: cue.row):
        name = next((name for name in cue.names if name in wanted), None)
        taken = bool(chosen) and chosen[-1].row == cue.row
        if name is None or taken or len(chosen) == max_cues:
            left.append(cue)
        else:
            chosen.append(replace(cue, name=name))
    return replace(record, cues=tuple(chosen), others=tuple(left))
