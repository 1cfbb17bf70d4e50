"""Tries several ways to close thinking at the same cues of one run, each on a fork with the keys of the exit itself."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

from reasonctl.backends import Model
from reasonctl.controller import Boundary, Closing, Cues, Decision, Decode, ExitRule, Step
from reasonctl.controller.thinking import after_thinking

from .making import run_window
from .recipe import Recipe
from .worker import AskedRun, answer_text, prepared


@dataclass(frozen=True, slots=True)
class TriedAnswer:
    """What one closing gave at one cue."""

    closing: Closing
    """The closing."""
    answer: str
    """The answer as the user would read it."""
    complete: bool
    """It ended by the closing's rule or with the model's own end, not at the limit."""
    cost: int
    """Tokens of the forced text and of the answer."""


@dataclass(frozen=True, slots=True)
class TriedRun:
    """A full run, and what the closings gave at some of its cues."""

    answer: str
    """The full run's own answer."""
    tried: tuple[TriedAnswer, ...]
    """Every closing at every chosen cue, in order."""


@dataclass
class TryClosings(ExitRule):
    """The exit rule that never exits, and tries every closing at the cues 1, 2, 4, 8 and so on of a run."""

    recipe: Recipe
    """How the run is made; its own closing isn't used."""
    model: Model
    """The model that makes it."""
    closings: tuple[Closing, ...]
    """What is tried."""
    tried: list[TriedAnswer] = field(default_factory=list)
    """What came of it."""
    trials: bool = True
    """It tries exits."""
    reads: bool = False
    """It reads no hidden state."""

    def __post_init__(self) -> None:
        self.markers, self.cues = self.recipe.span(), Cues(self.recipe.cues)
        self.suffix, self.answer_ends = self.recipe.suffix, self.recipe.answer_ends
        self.max_cues = self.recipe.max_cues

    def decide(self, at: Boundary) -> Generator[Decode, Step, Decision]:
        """Try the closings at a chosen cue, and stay."""
        number = at.cue.index + 1
        if number & (number - 1) == 0:
            for closing in self.closings:
                trial = yield from at.answer(self.recipe.answer_tokens, closing=closing)
                answer = after_thinking(trial.text, self.markers)
                self.tried.append(TriedAnswer(closing, answer, trial.complete, trial.cost))
        return Decision(False, at.cue.name, at.cue.index, at.cue.first - at.prompt, 0.0, float("inf"))


def try_closings(recipe: Recipe, closings: tuple[Closing, ...], window: Sequence[AskedRun]) -> list[TriedRun]:
    """Runs of a job, in full, with the closings tried at some of their cues; nothing is graded yet.

    Args:
        recipe: How the runs are made; its own closing isn't used.
        closings: What is tried.
        window: The runs. They share forwards where the recipe asks for batches.
    """
    model = recipe.load()
    rules = [TryClosings(recipe, model, closings) for _ in window]
    runs = [prepared(recipe, model, asked, rule) for asked, rule in zip(window, rules, strict=True)]
    made = run_window(model, runs, recipe.batch)
    return [
        TriedRun(answer_text(recipe, model, run.trace.tokens), tuple(rule.tried))
        for run, rule in zip(made, rules, strict=True)
    ]
