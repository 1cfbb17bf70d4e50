"""Tries several ways to close thinking at the same cues of one run, each on a fork with the keys of the exit itself."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field

from reasonctl.backends import Model
from reasonctl.controller import Boundary, Closing, Cues, Decision, Decode, ExitRule, Step
from reasonctl.controller.thinking import after_thinking

from .logged import LoggedRun
from .recipe import Recipe
from .worker import answer_text, one_run


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
        self.form, self.max_cues = self.recipe.form, self.recipe.max_cues

    def decide(self, at: Boundary) -> Generator[Decode, Step, Decision]:
        """Try the closings at a chosen cue, and stay."""
        number = at.cue.index + 1
        if number & (number - 1) == 0:
            for closing in self.closings:
                trial = yield from at.answer(self.recipe.answer_tokens, closing=closing)
                answer = after_thinking(trial.text, self.markers)
                self.tried.append(TriedAnswer(closing, answer, trial.complete, trial.cost))
        return Decision(False, at.cue.name, at.cue.index, at.cue.first - at.prompt, 0.0, float("inf"))


def try_closings(
    recipe: Recipe, closings: tuple[Closing, ...], index: int, question: str, logged: LoggedRun | None = None
) -> TriedRun:
    """Run number `index` of a job, in full, with the closings tried at some of its cues; nothing is graded yet.

    `logged` has the run's tokens where it was made elsewhere.
    """
    model = recipe.load()
    rule = TryClosings(recipe, model, closings)
    trace, _ = one_run(recipe, model, index, question, rule, logged)
    return TriedRun(answer_text(recipe, model, trace.tokens), tuple(rule.tried))
