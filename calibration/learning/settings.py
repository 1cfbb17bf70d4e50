"""What is fixed for the life of a store that learns."""

from __future__ import annotations

from dataclasses import dataclass

from reasonctl.controller import AnswerEnds, Closing, ControllerError
from reasonctl.controller.audits import LEVEL, SHARE
from reasonctl.controller.thinking import WORDS
from reasonctl.probes import Promise

from ..runs.recipe import LAYERS, Recipe
from ..runs.splits import FITTING_RUNS


@dataclass(frozen=True)
class LearnedSettings:
    """What is fixed for a store's life."""

    risk: float = 0.05
    """The risk of every promise."""
    confidence: float = 0.9
    """Probability that all promises of the store hold; the k-th one spends (1 - confidence) / 2^k."""
    share: float = SHARE
    """The share of runs that are audited once a promise stands."""
    level: float = LEVEL
    """Largest probability that any alarm of the store is false; the k-th promise spends level / 2^k."""
    fit: int = FITTING_RUNS
    """The first so many runs of a promise fit."""
    markers: tuple[str, str] | None = ("<think>", "</think>")
    """The texts that open and close thinking."""
    cues: tuple[str, ...] = WORDS
    """What counts as a cue."""
    suffix: str = "</think>\n\n"
    """The text that an exit feeds."""
    answer_ends: AnswerEnds = "model"
    """What ends the answer after an exit."""
    answer_tokens: int = 64
    """Most tokens of a tried answer."""
    layers: tuple[float, ...] = LAYERS
    """The blocks that the probe reads, as fractions of depth."""

    def recipe(self, model: str, policy: str, max_new_tokens: int) -> Recipe:
        """How the traffic's runs are made."""
        return Recipe(
            model=model,
            backend=None,
            threads=None,
            markers=self.markers,
            cues=self.cues,
            suffix=self.suffix,
            max_cues=200,
            layers=self.layers,
            policy=policy,
            draft="none",
            seed=0,
            max_new_tokens=max_new_tokens,
            answer_tokens=self.answer_tokens,
            answer_ends=self.answer_ends,
        )

    def check(self) -> None:
        """Raise ControllerError for what is out of its range; cues and closing are checked by the rule."""
        Promise("disagree", self.risk, self.confidence)
        if self.confidence is None:
            raise ControllerError("a store's promises need a confidence, for example 0.9")
        if type(self.fit) is not int or self.fit < 4:
            raise ControllerError(f"fit is {self.fit!r:.40}; a probe needs 4 runs or more, say 100")
        Closing(self.suffix, self.answer_ends)
