"""Signals: from the observations at a run's cues to one number that says how safe an exit is.

Every signal is a pure function of the run's observations so far. So a recorded run is scored by the very rule that is
deployed. Thresholds and promises work alike for all signals (risk/threshold.py).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from reasonctl.controller import ControllerError
from reasonctl.controller.core import find_plugin

from ..risk.table import Floats64
from .observation import Observation
from .probe import Probe

SMOOTHING = 0.5
"""Weight of the newest cue in the smoothed entropy."""

SignalName = Literal["hidden", "trial", "trial-geometric", "trial-least", "agreement", "entropy", "stack"]
SIGNALS: tuple[SignalName, ...] = get_args(SignalName)


class Signal(ABC):
    """The score at the last of a run's observations; larger means a safer exit."""

    reads_hidden = False
    """Whether it reads `Observation.p_settled`, which takes hidden states."""
    reads_distribution = False
    """Whether it reads `Observation.entropy`, which takes a pass over the vocabulary."""
    trials = False
    """Whether it may want trials, which take tokens."""

    def wants_trial(self, observations: Sequence[Observation]) -> bool:
        """Whether a trial is worth its tokens at the last observation, which has none yet."""
        return self.trials

    @abstractmethod
    def score(self, observations: Sequence[Observation]) -> float:
        """A finite number. The last observation has a trial if one was wanted."""


class Hidden(Signal):
    """The probe's probability (LYNX, arXiv 2512.05325)."""

    reads_hidden = True

    def score(self, observations: Sequence[Observation]) -> float:
        return observations[-1].p_settled


@dataclass(frozen=True)
class TrialConfidence(Signal):
    """How probable the model finds a trial answer's tokens: their mean, geometric mean or least probability.

    DEER (arXiv 2504.15895) takes the mean by default. All tokens count, the answer's first too; 0 without an answer.
    """

    trials = True
    kind: Literal["mean", "geometric", "least"] = "mean"
    """How the tokens' probabilities become one number."""

    def score(self, observations: Sequence[Observation]) -> float:
        return confidence(observations[-1].logprobs, self.kind)


class Agreement(Signal):
    """How many trial answers in a row, up to this one, are equal and not empty (Dynasor, arXiv 2412.20993)."""

    trials = True

    def score(self, observations: Sequence[Observation]) -> float:
        return float(streak(observations))


class Entropy(Signal):
    """Minus the entropy of the next-token distribution at the run's cues, exponentially smoothed. Costs no token."""

    reads_distribution = True

    def score(self, observations: Sequence[Observation]) -> float:
        return -smoothed_entropy(observations)


@dataclass(frozen=True, eq=False)
class Stack(Signal):
    """A logistic regression over all signals. Trials are run only where the probe leaves room for doubt.

    Both regressions give P(the answer is right), so that their scores compare.
    """

    low: float
    """Least probability of the probe at which a trial is run."""
    high: float
    """Largest probability of the probe at which a trial is run; below `low`: none ever is."""
    cheap: Probe
    """Weights over `cheap_features`, used at cues without a trial."""
    full: Probe
    """Weights over `full_features`, used at cues with a trial."""
    reads_hidden = True
    reads_distribution = True

    def __post_init__(self) -> None:
        if self.cheap.size != len(CHEAP) or self.full.size != len(FULL):
            raise ControllerError(f"the stack reads {self.cheap.size} and {self.full.size} values; fit it again")
        object.__setattr__(self, "trials", self.low <= self.high)

    def wants_trial(self, observations: Sequence[Observation]) -> bool:
        return self.low <= observations[-1].p_settled <= self.high

    def score(self, observations: Sequence[Observation]) -> float:
        if observations[-1].answer is None:
            return self.cheap.score(cheap_features(observations))
        return self.full.score(full_features(observations))

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The stack as named arrays, for the probe file."""
        parts = {"cheap": self.cheap, "full": self.full}
        named = {f"{part}.{name}": array for part, probe in parts.items() for name, array in probe.arrays().items()}
        return {"band": np.array([self.low, self.high]), **named}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Stack:
        """The inverse of `arrays`; raises ControllerError on missing or foreign names."""
        parts: dict[str, dict[str, Any]] = {"cheap": {}, "full": {}}
        band = arrays.get("band")
        for name, array in arrays.items():
            part, _, rest = name.partition(".")
            if part in parts:
                parts[part][rest] = array
            elif name != "band":
                raise ControllerError(f"the stack holds an array {name!r} that no stack has")
        if band is None or band.shape != (2,):
            raise ControllerError("the stack's band is missing; fit it again")
        return cls(float(band[0]), float(band[1]), Probe.from_arrays(parts["cheap"]), Probe.from_arrays(parts["full"]))


CHEAP = ("logit of p_settled", "smoothed entropy", "log index")
"""Features that cost no token."""
FULL = (*CHEAP, "mean logprob", "least logprob", "streak")
"""Features at a cue with a trial."""


def cheap_features(observations: Sequence[Observation]) -> Floats64:
    """Shape (3,): what costs no token, in the order of CHEAP."""
    last = observations[-1]
    logit = math.log(last.p_settled) - math.log1p(-last.p_settled) if last.p_settled < 1.0 else 36.0
    return np.array([logit, smoothed_entropy(observations), math.log1p(last.index)])


def full_features(observations: Sequence[Observation]) -> Floats64:
    """Shape (6,): `cheap_features` and the trial's, in the order of FULL."""
    logprobs = observations[-1].logprobs or (-36.0,)
    trial = [sum(logprobs) / len(logprobs), min(logprobs), float(streak(observations))]
    return np.concatenate([cheap_features(observations), trial])


def confidence(logprobs: Sequence[float], kind: Literal["mean", "geometric", "least"]) -> float:
    """Of an answer's tokens, in 0..1; 0 without any.

    >>> [round(confidence([0.0, math.log(0.25)], kind), 3) for kind in ("mean", "geometric", "least")]
    [0.625, 0.5, 0.25]
    """
    if not logprobs:
        return 0.0
    if kind == "mean":
        return sum(map(math.exp, logprobs)) / len(logprobs)
    return math.exp(min(logprobs) if kind == "least" else sum(logprobs) / len(logprobs))


def streak(observations: Sequence[Observation]) -> int:
    """How many of the last trial answers in a row are equal and not empty; cues without a trial are passed over."""
    answers = [one.answer for one in observations if one.answer is not None]
    last = answers[-1] if answers else ""
    return next((i for i, answer in enumerate(reversed(answers)) if answer != last), len(answers)) if last else 0


def smoothed_entropy(observations: Sequence[Observation]) -> float:
    """The exponential average of the cues' entropies, in nats; the newest cue weighs SMOOTHING."""
    value = observations[0].entropy
    for one in observations[1:]:
        value = SMOOTHING * one.entropy + (1 - SMOOTHING) * value
    return value


def make_signal(name: str, stack: Stack | None) -> Signal:
    """A signal by name, one of SIGNALS or a plugin's.

    Raises:
        ControllerError: It is unknown, a stack that was not fitted, or a plugin that can't be loaded.
    """
    plain: dict[str, Signal] = {
        "hidden": Hidden(),
        "trial": TrialConfidence("mean"),
        "trial-geometric": TrialConfidence("geometric"),
        "trial-least": TrialConfidence("least"),
        "agreement": Agreement(),
        "entropy": Entropy(),
    }
    if name == "stack" and stack is not None:
        return stack
    if name not in SIGNALS and (plugin := find_plugin("signals", name)) is not None:
        made = plugin.load()
        signal = plugin.guarded(made, "can't be made") if isinstance(made, type) else made
        if not isinstance(signal, Signal):
            raise plugin.refuse("a Signal, or a class of one that is made without arguments")
        return signal
    if name not in plain:
        known = ", ".join([*plain, *(["stack"] if stack else [])])
        raise ControllerError(f"signal is {name!r}; this probe file has {known}")
    return plain[name]
