"""Records as a smaller set of cues would have seen them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reasonctl.controller import ControllerError, Cues


def with_cues(records: Sequence[dict[str, Any]], names: Sequence[str], max_cues: int) -> list[dict[str, Any]]:
    """The records as they would have been collected at these cues, of those that they were collected at."""
    wanted = Cues(names).names
    return [_looked_at(record, wanted, max_cues) for record in records]


def check_collected(names: Sequence[str], collected: Sequence[str]) -> None:
    """Raises ControllerError if one of the cues wasn't looked for when runs were collected at `collected`."""
    known = Cues(collected).names
    strange = [name for name in Cues(names).names if name not in known]
    if strange:
        raise ControllerError(
            f"these runs were collected at the cues {', '.join(known)}; nothing is known of {', '.join(strange)}"
        )


def _looked_at(record: dict[str, Any], wanted: Sequence[str], max_cues: int) -> dict[str, Any]:
    """A row is looked at once, at the wanted cue that begins furthest to the left: looks of a row are in that order."""
    chosen: list[dict[str, Any]] = []
    left: list[dict[str, Any]] = []
    for look in sorted([*record["cues"], *record["others"]], key=lambda look: look["row"]):
        name = next((name for name in look["names"] if name in wanted), None)
        taken = bool(chosen) and chosen[-1]["row"] == look["row"]
        if name is None or taken or len(chosen) == max_cues:
            left.append(look)
        else:
            chosen.append({**look, "name": name})
    return {**record, "cues": chosen, "others": left}
