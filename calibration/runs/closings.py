"""Collects runs under several ways to close thinking at once: one text, and an exit of each kind at the same cues."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

from reasonctl.controller import Boundary, Closing, Decision, Decode, ExitRule, Step

from .collect import check_identity
from .making import run_window
from .recipe import Recipe
from .records import RunRecord
from .trials import Trials
from .worker import AskedRun, Collect, prepared, record_of


@dataclass
class CollectEach(ExitRule):
    """The exit rule that never exits, and asks a collecting rule for each closing at every cue."""

    rules: Sequence[Collect]
    """The collecting rules, which differ in their closing alone. The first one's says whether an exit has room."""
    trials: bool = True
    """It tries exits."""

    def __post_init__(self) -> None:
        first = self.rules[0]
        self.markers, self.cues, self.max_cues = first.markers, first.cues, first.max_cues
        self.suffix, self.answer_ends, self.form = first.suffix, first.answer_ends, first.form
        self.always_answer, self.later_spans = first.always_answer, first.later_spans

    def layers(self, depth: int) -> tuple[int, ...]:
        """The blocks that the rules record."""
        return self.rules[0].layers(depth)

    def decide(self, at: Boundary) -> Generator[Decode, Step, Decision]:
        """Let each rule try its exits and write them down, and stay."""
        row = at.row().copy()  # the first trial makes the view stale, and each rule reads it
        boundary = replace(at, row=lambda: row)
        decisions = []
        for rule in self.rules:
            decisions.append((yield from rule.decide(boundary)))
        return decisions[0]


def collect_closings(
    identity: dict[str, str] | None,
    recipe: Recipe,
    closings: Sequence[Closing],
    window: Sequence[AskedRun],
    which: Trials,
) -> list[tuple[RunRecord, ...]]:
    """Full runs, recorded once for each closing as `collect_runs` records them under it; nothing is graded yet.

    Args:
        identity: As in `collect_checked`.
        recipe: How the runs are made; its own closing isn't used.
        closings: What is tried.
        window: The runs. They share forwards where the recipe asks for batches.
        which: At which cues exits are tried under the first of them. The others, which are there to be compared, are
            tried at the fewest of these that `Trials` knows.
    """
    check_identity(identity, recipe)
    model = recipe.load()
    recipes = [replace(recipe, suffix=one.suffix, answer_ends=one.answer_ends) for one in closings]
    tried = [(one, which if i == 0 else replace(which, often=1.0)) for i, one in enumerate(recipes)]
    rules = [CollectEach([Collect(one, model, asked.run, at) for one, at in tried]) for asked in window]
    runs = [prepared(recipes[0], model, asked, rule) for asked, rule in zip(window, rules, strict=True)]
    made = run_window(model, runs, recipe.batch)
    return [
        tuple(record_of(one.recipe, model, asked, run.trace, one) for one in rule.rules)
        for asked, run, rule in zip(window, made, rules, strict=True)
    ]
