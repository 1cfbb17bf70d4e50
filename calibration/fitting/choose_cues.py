"""Which cues to look at: chosen on the fitting runs alone, so that calibration sees its runs for the first time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from reasonctl.controller import ControllerError
from reasonctl.controller.thinking.chat_template import BREAKS, WORDS
from reasonctl.probes.risk.threshold import NEARLY, Grid, Mode, choose_threshold

from ..runs.arrays import cut
from ..runs.cue_sets import with_cues
from .probe import fit_probe
from .tables import make_table

AUTO = "auto"
EVERYTHING = (*WORDS, *BREAKS)
CANDIDATES = (WORDS, BREAKS[:1], BREAKS, (*WORDS, *BREAKS[:1]), EVERYTHING)


class Tried(NamedTuple):
    """A cue set and the share of tokens that it would save on the fitting runs; None: nothing could be fitted."""

    cues: tuple[str, ...]
    saved: float | None


def choose_cues(
    fitting: Sequence[dict[str, Any]],
    mode: Mode,
    risk: float,
    confidence: float | None,
    *,
    seed: int,
    max_cues: int,
    candidates: Sequence[tuple[str, ...]] = CANDIDATES,
) -> tuple[tuple[str, ...], list[Tried]]:
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
