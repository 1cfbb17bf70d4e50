"""Which cues a rule is asked at: chosen on the fitting runs alone, so that calibration sees new runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from reasonctl.controller import ControllerError
from reasonctl.controller.thinking import BREAKS, WORDS
from reasonctl.probes import Promise
from reasonctl.probes.risk import NEARLY, Grid

from ..runs.arrays import to_arrays
from ..runs.cue_sets import with_cues
from ..runs.records import RunRecord
from .probe import fit_probe
from .tables import make_table

AUTO = "auto"
EVERYTHING = (*WORDS, *BREAKS)
CANDIDATES = (WORDS, BREAKS[:1], BREAKS, (*WORDS, *BREAKS[:1]), EVERYTHING)


class TriedCues(NamedTuple):
    """A cue set, and what it would do."""

    cues: tuple[str, ...]
    """The set."""
    saved: float | None
    """Share of tokens that it would save on the fitting runs. None: nothing could be fitted."""


class ChosenCues(NamedTuple):
    """The cue set that is used, and how it was found."""

    cues: tuple[str, ...]
    """The set."""
    tried: list[TriedCues]
    """All candidates, in their order."""


def choose_cues(
    fitting: Sequence[RunRecord],
    promise: Promise,
    *,
    seed: int,
    max_cues: int,
    candidates: Sequence[tuple[str, ...]] = CANDIDATES,
) -> ChosenCues:
    """The first candidate with nearly the largest net savings under a promise, by held-out scores on the fitting runs.

    Args:
        fitting: The runs to fit on.
        promise: Its mode, risk and confidence count.
        seed: Of the folds.
        max_cues: Most cues of a run at which a rule is asked.
        candidates: Cue sets, from few cues to many; more cues must pay by more than chance.

    Raises:
        ControllerError: Nothing can be fitted at any of them.
    """
    seen = {cues: with_cues(fitting, cues, max_cues) for cues in candidates}
    tried = [TriedCues(cues, _saved(runs, cues, promise, seed)) for cues, runs in seen.items()]
    best = max((one.saved for one in tried if one.saved is not None), default=None)
    if best is None:
        raise ControllerError(
            f"none of the cues {', '.join(EVERYTHING)} gives a probe on {len(fitting)} runs; name others with --cues"
        )
    chosen = next(one for one in tried if one.saved is not None and one.saved >= best - (1 - NEARLY) * abs(best))
    return ChosenCues(chosen.cues, tried)


def _saved(records: Sequence[RunRecord], cues: tuple[str, ...], promise: Promise, seed: int) -> float | None:
    try:
        runs = to_arrays(records)
        held_out = fit_probe(runs.features, runs.labels(promise.mode), runs.problems, seed=seed).held_out
    except ControllerError:
        return None  # too few cues of this kind, or of one label: not a candidate
    table = make_table(runs, held_out, cues)
    value = promise.threshold(table, Grid.of(table)).value
    out = table.outcomes(table.first_exit(value))
    return float(1 - out.tokens.mean() / table.full_tokens.mean())
