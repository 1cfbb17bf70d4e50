"""Records as a smaller set of cues would have seen them, and whether they are of the cues of their job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from reasonctl.controller import ControllerError, Cues
from reasonctl.controller.core import Fields

from .records import CueRecord, RunRecord


def with_cues(records: Sequence[RunRecord], names: Sequence[str], max_cues: int) -> list[RunRecord]:
    """The records as they would have been collected at these cues, of those that they were collected at."""
    wanted = Cues(names).names
    return [_with_cues(record, wanted, max_cues) for record in records]


def check_collected(names: Sequence[str], collected: Sequence[str]) -> None:
    """Raises ControllerError if one of the cues wasn't looked for when runs were collected at `collected`."""
    known = Cues(collected).names
    strange = [name for name in Cues(names).names if name not in known]
    if strange:
        raise ControllerError(
            f"these runs were collected at the cues {', '.join(known)}; nothing is known of {', '.join(strange)}"
        )


def check_job(records: Sequence[RunRecord], settings: Fields) -> None:
    """Raises ControllerError unless the records can be those of one job: in order, with its cues and one width."""
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
    """A rule is asked once a row, at the wanted cue furthest to the left; the cues of a row are in that order."""
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
