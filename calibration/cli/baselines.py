"""Prints what cheap rules would have done on the evaluated runs, next to the rule."""

from __future__ import annotations

from ..evaluation.baseline_comparison import BaselineComparison
from ..evaluation.baselines import EQUAL_COST, Result, verdict
from ..pages.wording import percent
from .console import Console


def show_baselines(show: Console, found: BaselineComparison | None, mode: str) -> None:
    """Print a table of all rules, the best fixed cue, and the verdict.

    Args:
        show: Where it is printed.
        found: What the rules did. None: no cue was met.
        mode: Which failure the risk bounds.
    """
    if found is None:
        show.say("no cue was met in these runs: nothing to compare")
        return
    show.title("what cheap rules would have done on the same runs, under the same promise")
    rows = [_row(result, found.graded) for result in found.results]
    show.table(rows, "rule", "tokens saved", mode, "exit rate", "accuracy")
    if found.flattered:
        show.say(
            "The cheap rules got their thresholds from these very runs: exits of the calibration runs were tried only "
            "where the probe can choose them (ctl calibrate --labels all)."
        )
    show.say(f"{EQUAL_COST!r}: closed after so many tokens that it costs what the rule does; it promises nothing.")
    show.say(f"best fixed cue at the rule's own failure rate (interpolated): {percent(found.fixed_saved)}")
    show.say(verdict(found.results), "bold")


def _row(result: Result, graded: bool) -> list[str]:
    return [
        result.name,
        percent(result.saved_share),
        percent(result.failed),
        percent(result.exit_rate),
        percent(result.accuracy if graded else None),
    ]
