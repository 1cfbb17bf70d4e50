"""The file of two AutoDeco heads (temperature and top-p), and their evaluation in numpy."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from reasonctl.controller import ControllerError
from reasonctl.controller.core import softmax

from ..risk.table import Floats64
from ..signals.probe import Probe
from .card import ModelCard, Scalar, check_entries, check_plain
from .sealed import Sealed, Tensors, check_floats, check_target

SEALED = Sealed("reasonctl-heads", 1, "heads file", "ctl calibrate MODEL --tasks T --heads")
COOLEST = 1e-2
"""Lowest temperature that the heads may set."""
STATISTICS = 4
"""Numbers that `statistics` gives."""
_TINY = 1e-8


def unit(hidden: npt.NDArray[Any]) -> Floats64:
    """Divide hidden states by their root mean square.

    The LM head sees the same state, multiplied by the final norm's weights; the heads' first layer learns those. Every
    backend gives a block's output, and none gives the normed state itself.

    Args:
        hidden: A block's outputs, shape (..., width).

    Returns:
        Shape (..., width).
    """
    x = np.asarray(hidden, dtype=np.float64)
    scaled: Floats64 = x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + _TINY)
    return scaled


def statistics(logits: npt.NDArray[Any], temperature: float) -> Floats64:
    """What the top-p head reads of the distribution softmax(logits / temperature).

    Args:
        logits: Shape (vocabulary,); -inf where a token is impossible.
        temperature: The temperature.

    Returns:
        Shape (4,): the largest probability, the entropy in nats, the unbiased variance, and the mass of the five
        likeliest tokens.
    """
    p = softmax(logits, temperature + _TINY)
    top = np.partition(p, -5)[-5:] if len(p) > 5 else p
    spread = p.var(ddof=1) if len(p) > 1 else 0.0
    # The entropy as in training (calibration/fitting/heads.py): _TINY is added inside the logarithm there.
    return np.array([p.max(), -(p * np.log(p + _TINY)).sum(), spread, top.sum()])


@dataclass(frozen=True, eq=False)
class Heads:
    """Two small networks on h, the last block's state as `unit` scales it."""

    temperature: Probe
    """Gives T = 2 * sigmoid(MLP(h)), below 2."""
    top_p: Probe
    """Gives sigmoid(MLP([h, T, statistics]))."""

    def __post_init__(self) -> None:
        if self.top_p.size != self.width + 1 + STATISTICS:
            raise ControllerError(
                f"the top-p head reads {self.top_p.size} values; next to a temperature head of {self.width} it must "
                f"read {self.width + 1 + STATISTICS}. Make the file again: {SEALED.make}"
            )

    @property
    def width(self) -> int:
        """Length of a hidden state."""
        return self.temperature.size

    def at(self, hidden: npt.NDArray[Any], logits: npt.NDArray[Any]) -> tuple[float, float]:
        """The heads' settings for one row.

        Args:
            hidden: The last block's output, shape (width,).
            logits: Shape (vocabulary,).

        Returns:
            The temperature and top-p.

        Raises:
            ControllerError: The state has another width, or isn't finite.
        """
        if hidden.shape != (self.width,):
            raise ControllerError(
                f"the heads read a state of {self.width} values, this model's has shape {hidden.shape}; they were "
                f"trained on another model. Make some for it: {SEALED.make}"
            )
        x = unit(hidden)
        temperature = 2.0 * self.temperature.score(x)
        return temperature, self.top_p.score(np.concatenate([x, [temperature], statistics(logits, temperature)]))


@dataclass(frozen=True, kw_only=True)
class HeadsCard(ModelCard):
    """What heads were trained on."""

    training: dict[str, Scalar]
    """How the heads were trained."""

    def __post_init__(self) -> None:
        check_plain(
            self,
            numbers=("depth", "width"),
            texts=("fingerprint", "template"),
            named=("tasks", "grader"),
            maps=("sampler", "seeds", "runs", "training", "settings", "versions", "report"),
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> HeadsCard:
        """From parsed JSON.

        Raises:
            ControllerError: An entry is missing, foreign or of another type.
        """
        check_entries(cls, values)
        try:
            return cls(**values)
        except (TypeError, AttributeError) as error:
            raise ControllerError(f"the card is malformed ({error}); make the file again") from None


@dataclass(frozen=True, eq=False)
class HeadsFile:
    """Everything that one heads file holds."""

    heads: Heads
    """The heads."""
    card: HeadsCard
    """What they were trained on."""

    def __post_init__(self) -> None:
        if self.heads.width != self.card.width:
            raise ControllerError(f"the heads read {self.heads.width} values, the card says {self.card.width}")


def save_heads(path: str | os.PathLike[str], content: HeadsFile, *, force: bool = False) -> None:
    """Write the file whole or not at all; the same content gives the same bytes.

    Args:
        path: The file.
        content: What is written.
        force: Whether an existing file may be replaced.

    Raises:
        ControllerError: The place is taken or can't be written; what was there before stays.
    """
    check_target(path, force)
    groups = {"temperature": content.heads.temperature.arrays(), "top_p": content.heads.top_p.arrays()}
    tensors = {f"{group}.{name}": array for group, arrays in groups.items() for name, array in arrays.items()}
    SEALED.save(path, tensors, asdict(content.card))


def load_heads(path: str | os.PathLike[str]) -> HeadsFile:
    """Read and verify a file.

    Raises:
        ControllerError: The file is missing, truncated, changed, or no heads file.
    """
    return SEALED.load(path, _content)


def _content(tensors: Tensors, values: dict[str, Any]) -> HeadsFile:
    check_floats(tensors)
    groups: dict[str, Tensors] = {"temperature": {}, "top_p": {}}
    for name, array in tensors.items():
        group, _, rest = name.partition(".")
        if group not in groups:
            raise ControllerError(f"it holds a tensor {name!r:.80} that no heads have")
        groups[group][rest] = array
    heads = Heads(Probe.from_arrays(groups["temperature"]), Probe.from_arrays(groups["top_p"]))
    return HeadsFile(heads, HeadsCard.from_dict(values))
