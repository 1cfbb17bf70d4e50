"""Exit rules: the calibrated probe, and the fixed rules it is compared with.

Owns the decision at a cue and what its guarantee covers; statistics are in risk.py, file checks in file.py.
"""

from __future__ import annotations

import math
import os
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ..controller import Boundary, ControllerError, Cues, Decision, Decode, Markers, Step
from .file import Card, Scalar, check_model, load_probe, template_hash
from .probe import Probe, features_at, layer_of
from .risk import Mode, Threshold, check_request, choose_threshold


class LoadedModel(Protocol):
    """What a card is compared with; backends.Model is one."""

    @property
    def depth(self) -> int: ...

    @property
    def width(self) -> int: ...

    @property
    def template(self) -> str | None: ...

    @property
    def settings(self) -> dict[str, str]: ...

    def fingerprint(self) -> str: ...


class ProbeExit:
    """Exit at the first cue where the probe scores above the calibrated threshold (an ExitRule)."""

    trials = False

    def __init__(self, *, probe: Probe, threshold: Threshold, card: Card) -> None:
        self.probe, self.threshold, self.card = probe, threshold, card
        self.markers = Markers(*card.markers) if card.markers is not None else None
        self.cues, self.suffix, self.max_cues = Cues(card.cues), card.suffix, card.max_cues
        self._layers = tuple(layer_of(fraction, card.depth) for fraction in card.layers)
        self._warnings: list[str] | None = None

    @property
    def why(self) -> str:
        """One line: where it exits and what that promises, or why it never exits and how many runs are missing."""
        return self.threshold.why

    def layers(self, depth: int) -> tuple[int, ...]:
        """Blocks that the probe reads; raises ControllerError on a model of another depth."""
        if depth != self.card.depth:
            raise ControllerError(
                f"probe was fitted on a {self.card.depth}-layer model of width {self.card.width}; this model has "
                f"{depth} layers. Make a probe for it: ctl calibrate"
            )
        return self._layers

    def decide(self, at: Boundary) -> Generator[Decode, Step, Decision]:
        """Score the cue's hidden state; strictly above the threshold it exits. Asks for no forward."""
        score = self.probe.score(features_at(at.hidden, self._layers))
        return _decision(at, score, self.threshold.value)
        yield  # a generator that needs no forward of its own

    def check(self, model: LoadedModel) -> list[str]:
        """Warnings where the model differs slightly from the card's; ControllerError for another model."""
        self._warnings = check_model(
            self.card, fingerprint=model.fingerprint(), depth=model.depth, width=model.width,
            template=template_hash(model.template), settings=model.settings,
        )  # fmt: skip
        return self._warnings

    def guarantee(
        self, *, sampler: Mapping[str, Scalar], max_new_tokens: int, tasks: str, grader: str | None = None
    ) -> dict[str, Any]:
        """{"holds", "mode", "risk", "confidence", "why_not"}: every difference between the card and this use.

        grader None: answers are not judged in this use, so it can't differ.
        """
        card, limit = self.card, self.threshold
        pairs: list[tuple[str, Any, Any]] = [("tasks", tasks, card.tasks)]
        pairs += [("max_new_tokens", max_new_tokens, card.max_new_tokens)]
        if grader is not None and limit.mode != "disagree":
            pairs.append(("grader", grader, card.grader))
        for name in sorted(set(sampler) | set(card.sampler)):
            pairs.append((f"sampler {name}", sampler.get(name, "not set"), card.sampler.get(name, "not set")))
        why_not = [f"{name} is {used!r}, calibrated with {was!r}" for name, used, was in pairs if used != was]
        if self._warnings is None:
            why_not.append("the model in use was not compared with the card")
        else:
            why_not += self._warnings
        if limit.mode == "event":
            why_not.append("mode 'event' is per cue: nothing is promised for a run")
        return {
            "holds": not why_not, "mode": limit.mode, "risk": limit.risk, "confidence": limit.confidence,
            "why_not": why_not,
        }  # fmt: skip


def load_exit(
    path: str | os.PathLike[str], *, risk: float = 0.05, confidence: float | None = 0.9, mode: Mode = "harm"
) -> ProbeExit:
    """The exit rule of a probe file, at the threshold that its calibration table allows for this risk.

    confidence None: the marginal form. Raises ControllerError on a bad request and on a file that is not whole; a risk
    that the table can't promise is no error: the rule never exits, and `why` says how many runs are missing.
    """
    check_request(mode, risk, confidence)
    content = load_probe(path)
    threshold = choose_threshold(content.table, content.grid, mode, risk, confidence)
    return ProbeExit(probe=content.probe, threshold=threshold, card=content.card)


@dataclass(frozen=True, kw_only=True)
class NeverExit:
    """Meets the cues and never exits: the full run, with its cues in the trace (an ExitRule)."""

    cues: Cues
    suffix: str
    markers: Markers | None = None
    max_cues: int = 1_000_000
    trials: bool = False

    def layers(self, depth: int) -> tuple[int, ...]:
        """Reads none."""
        return ()

    def decide(self, at: Boundary) -> Generator[Decode, Step, Decision]:
        return _decision(at, 0.0, 1.0)
        yield  # a generator that needs no forward of its own


@dataclass(frozen=True, kw_only=True)
class FixedExit(NeverExit):
    """Exits at cue `index` (0-based) of every run that has so many (an ExitRule)."""

    index: int

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.max_cues:
            raise ControllerError(f"exit at cue {self.index}; it must be between 0 and {self.max_cues - 1}")

    def decide(self, at: Boundary) -> Generator[Decode, Step, Decision]:
        return _decision(at, float(at.cue.index), math.nextafter(float(self.index), -math.inf))
        yield  # a generator that needs no forward of its own


def _decision(at: Boundary, score: float, threshold: float) -> Decision:
    position = at.cue.first - at.prompt
    return Decision(score > threshold, at.cue.name, at.cue.index, position, score, threshold)
