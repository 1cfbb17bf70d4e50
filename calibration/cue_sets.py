"""Which cues to look at: chosen on the fitting runs alone, so that calibration sees its runs for the first time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from reasonctl.controller import ControllerError, Cues
from reasonctl.controller.thinking.chat_template import BREAKS, WORDS
from reasonctl.probes.risk.threshold import NEARLY, Grid, Mode, choose_threshold

from .collect import cut
from .fit import fit_probe
from .replay import make_table

AUTO = "auto"
EVERYTHING = (*WORDS, *BREAKS)
CANDIDATES = (WORDS, BREAKS[:1], BREAKS, (*WORDS, *BREAKS[:1]), EVERYTHING)


class Tried(NamedTuple):
    """A cue set and the share of tokens that it would save on the fitting runs; None: nothing could be fitted."""

    cues: tuple[str, ...]
    saved: float | None


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


def choose_cues(
    fitting: Sequence[dict[str, Any]], mode: Mode, risk: float, confidence: float | None, *, seed: int, max_cues: int,
    candidates: Sequence[tuple[str, ...]] = CANDIDATES,
) -> tuple[tuple[str, ...], list[Tried]]:  # fmt: skip
    """The first candidate with nearly the largest net savings at this risk, by held-out scores on the fitting runs.

    Also gives all as they were tried. Candidates go from few cues to many; more must pay by more than chance.
    """
    seen = {cues: with_cues(fitting, cues, max_cues) for cues in candidates}
    tried = [Tried(cues, _saved(runs, cues, mode, risk, confidence, seed)) for cues, runs in seen.items()]
    best = max((one.saved for one in tried if one.saved is not None), default=None)
    if best is None:
        raise ControllerError(
            f"none of the cues {', '.join(EVERYTHING)} gives a probe on {len(fitting)} runs; name others with --cues"
        )
    chosen = next(one for one in tried if one.saved is not None and one.saved >= best - (1 - NEARLY) * abs(best))
    return chosen.cues, tried


def _saved(
    records: Sequence[dict[str, Any]],
    cues: tuple[str, ...],
    mode: Mode,
    risk: float,
    confidence: float | None,
    seed: int,
) -> float | None:
    try:
        runs = cut(list(records))
        labels = np.array(runs.per_cue("same" if mode == "disagree" else "right"))
        problems = np.repeat(runs.per_run("problem"), np.diff(runs.offsets))
        held_out = fit_probe(runs.features, labels, problems, seed=seed).held_out
    except ControllerError:
        return None  # too few cues of this kind, or of one label: not a candidate
    table = make_table(runs, held_out, cues)
    value = choose_threshold(table, Grid.of(table), mode, risk, confidence).value
    out = table.outcomes(table.first_exit(value))
    return float(1 - out.tokens.mean() / table.full_tokens.mean())
