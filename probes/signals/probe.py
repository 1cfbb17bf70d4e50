"""The probe: a fitted scikit-learn pipeline as plain arrays, evaluated in numpy.

It scores one hidden state, made of some layers. calibration/fitting/probe.py fits it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from reasonctl.controller import ControllerError

from ..risk.table import Floats64

_SATURATED = 36.0
"""Logit beyond which a float64 sigmoid is exactly 1; scores stay inside (0, 1)."""


def layer_of(fraction: float, depth: int) -> int:
    """Block at a fraction of a model's depth: 0 is the first, 1 the last, halves round up.

    >>> layer_of(0.5, 24), layer_of(0.5, 4), layer_of(1.0, 24), layer_of(0.0, 1)
    (12, 2, 23, 0)
    """
    if not 0.0 <= fraction <= 1.0 or depth < 1:
        raise ControllerError(f"layer fraction {fraction} of {depth} blocks; it must be between 0 and 1, of at least 1")
    return min(max(math.floor(fraction * (depth - 1) + 0.5), 0), depth - 1)


def features_at(hidden: Mapping[int, npt.NDArray[Any]], layers: Sequence[int]) -> Floats64:
    """Shape (len(layers) * width,): the states of these blocks, in this order, as float64."""
    return np.concatenate([hidden[layer] for layer in layers], dtype=np.float64)


@dataclass(frozen=True, eq=False)
class Probe:
    """sigmoid(relu(... x W0 + b0 ...) Wn + bn): logistic regression with one layer, an MLP with more.

    The scaler is folded into layer 0. All is float64: some dimensions of a hidden state are hundreds of times larger
    than the rest, and their folded means must cancel.

    >>> probe = Probe((np.array([[2.0], [0.0]]),), (np.array([-1.0]),))
    >>> round(probe.score(np.array([0.5, 3.0])), 6)
    0.5
    """

    weights: tuple[Floats64, ...]
    """By layer, shape (in, out); the last out is 1."""
    biases: tuple[Floats64, ...]
    """By layer, shape (out,)."""

    def __post_init__(self) -> None:
        if not self.weights or len(self.weights) != len(self.biases):
            raise ControllerError(
                f"a probe needs one bias per layer: {len(self.weights)} and {len(self.biases)} arrays"
            )
        for name in ("weights", "biases"):
            arrays = tuple(np.ascontiguousarray(array, dtype=np.float64) for array in getattr(self, name))
            object.__setattr__(self, name, arrays)
        shapes = [array.shape for array in self.weights]
        ends = [shape[0] for shape in shapes[1:] if shape] + [1]
        for shape, bias, out in zip(shapes, self.biases, ends, strict=True):
            if len(shape) != 2 or shape[1] != out or bias.shape != (out,):
                raise ControllerError(f"a probe's layers don't fit together: weights {shapes}")
        if not all(np.isfinite(array).all() for array in self.weights + self.biases):
            raise ControllerError("a probe's weights are not finite; fit it again")

    @property
    def size(self) -> int:
        """Length of a feature vector."""
        return int(self.weights[0].shape[0])

    def score(self, features: npt.NDArray[Any]) -> float:
        """The probability that the answer at one cue is right, in (0, 1).

        Args:
            features: The hidden state at the cue. Shape (size,).

        Raises:
            ControllerError: The features have another size, or a NaN.
        """
        if features.shape != (self.size,):
            raise ControllerError(f"the probe reads {self.size} features, got shape {features.shape}: another model?")
        logit = float(self._logits(features)[0])
        if not math.isfinite(logit):
            raise ControllerError("the hidden state holds NaN or infinite values; the probe can't read it")
        return 1.0 / (1.0 + math.exp(-min(max(logit, -_SATURATED), _SATURATED)))

    def scores(self, features: npt.NDArray[Any]) -> Floats64:
        """Shape (n,): `score` of every row of features (n, size), equal to rounding."""
        if features.ndim != 2 or features.shape[1] != self.size:
            raise ControllerError(f"the probe reads {self.size} features per row, got shape {features.shape}")
        logits = self._logits(features)[:, 0]
        if not np.isfinite(logits).all():
            raise ControllerError("a hidden state holds NaN or infinite values; the probe can't read it")
        return np.asarray(1.0 / (1.0 + np.exp(-np.clip(logits, -_SATURATED, _SATURATED))))

    def _logits(self, features: npt.NDArray[Any]) -> Floats64:
        x: Any = features
        last = len(self.weights) - 1
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = x @ weight + bias
            if i < last:
                x = np.maximum(x, 0.0)
        return np.asarray(x)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The probe as named arrays, for the probe file."""
        named = {f"{i}.weight": weight for i, weight in enumerate(self.weights)}
        return {**named, **{f"{i}.bias": bias for i, bias in enumerate(self.biases)}}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Probe:
        """The inverse of `arrays`; raises ControllerError on missing or foreign names."""
        depth = range(len(arrays) // 2)
        if set(arrays) != {f"{i}.{kind}" for i in depth for kind in ("weight", "bias")}:
            raise ControllerError(f"the probe's arrays are {sorted(arrays)}; it needs 0.weight, 0.bias and so on")
        return cls(tuple(arrays[f"{i}.weight"] for i in depth), tuple(arrays[f"{i}.bias"] for i in depth))
