"""A collected run as types: what docs/runs-format.md says, field by field.

A line of a file of runs becomes a record in `RunRecord.from_json`, which refuses whatever is no record, and a record
becomes the line again in `to_json`.
"""

from __future__ import annotations

import base64
from dataclasses import asdict, dataclass, fields
from types import NoneType
from typing import Any

import numpy as np
import numpy.typing as npt

from reasonctl.controller import ControllerError

_VALUES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (float, int),
    "str": (str,),
    "bool": (bool,),
    "str | None": (str, NoneType),
}
"""JSON's types of a field, by the field's annotation."""

_ELEMENTS: dict[str, tuple[type, ...]] = {
    "tuple[str, ...]": (str,),
    "tuple[float, ...]": (float, int),
    "tuple[CueRecord, ...]": (dict,),
}
"""JSON's types of an array's elements, by the field's annotation."""


def pack(values: npt.NDArray[np.float32]) -> str:
    """A float32 vector as text."""
    return base64.b64encode(values.astype("<f4").tobytes()).decode("ascii")


def unpack(text: str) -> npt.NDArray[np.float32]:
    """The vector that `pack` wrote."""
    return np.frombuffer(base64.b64decode(text), dtype="<f4")


@dataclass(frozen=True, slots=True)
class CueRecord:
    """One cue of a run, and what an exit there would have given. The run itself went on as if nothing had happened."""

    name: str
    """The cue: the first of its `names`."""
    names: tuple[str, ...]
    """All cues that begin and end here."""
    position: int
    """Tokens beyond the prompt, before the cue."""
    row: int
    """Tokens beyond the prompt, before the cue's last token: the row of `hidden`."""
    offset: int
    """Start of the cue's first token in the run's text, in characters."""
    tokens: int
    """Cost of a run that exits here, in tokens: all up to the cue, the cue, the next token, the exit."""
    trial: int
    """Tokens fed and sampled for the trial answer."""
    answer: str
    """The trial answer."""
    logprobs: tuple[float, ...]
    """Of each token of the trial answer and the end of sequence, in nats, at temperature 1."""
    entropy: float
    """Of the next-token distribution after the cue, in nats, at temperature 1."""
    value: str
    """The last number written before the cue; empty if there is none."""
    hidden: str
    """The outputs of the recipe's layers at the cue's last token, one after the other, as `pack` writes them."""
    right: bool = False
    """Whether the grader accepts the trial answer; False where nothing was graded, or there is no right answer."""
    same: bool = False
    """Whether the grader holds the trial answer equal to the whole run's; False where nothing was graded."""

    @property
    def state(self) -> npt.NDArray[np.float32]:
        """Shape (layers * width,): `hidden` as numbers."""
        return unpack(self.hidden)

    @classmethod
    def from_json(cls, values: Any) -> CueRecord:
        """From parsed JSON; ControllerError for anything but a cue's object."""
        return cls(**_checked(cls, values))


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One collected run, and the exits that were tried at its cues."""

    run: int
    """Index of the run in its job, from 0."""
    problem: int
    """First 63 bits of the SHA-256 of the question (`Problem.id`)."""
    question: str
    """The question, before the chat template."""
    tokens: int
    """Tokens sampled in the whole run: its cost."""
    finish: str
    """`stop`: the model ended the run; `length`: it was truncated."""
    text: str
    """All text beyond the prompt, without the end of sequence."""
    answer: str
    """The text after thinking."""
    cues: tuple[CueRecord, ...] = ()
    """The cues at which a rule on all of the job's cues is asked, in order."""
    others: tuple[CueRecord, ...] = ()
    """Cues at which only a rule on fewer cues is asked, in order."""
    domain: str = ""
    """The group that the problem belongs to; empty if there are none."""
    gold: str | None = None
    """The right answer. None: it isn't known."""
    right: bool = False
    """Whether the grader accepts the answer; False where nothing was graded, or there is no right answer."""

    @classmethod
    def from_json(cls, values: Any) -> RunRecord:
        """From parsed JSON, the inverse of `to_json`; ControllerError for anything but a run's object."""
        found = _checked(cls, values)
        parts = {name: tuple(map(CueRecord.from_json, found[name])) for name in ("cues", "others")}
        return cls(**{**found, **parts})

    def to_json(self) -> dict[str, Any]:
        """The record as a JSON object."""
        return asdict(self)


def _checked(kind: type[CueRecord] | type[RunRecord], values: Any) -> dict[str, Any]:
    """The object's values, arrays as tuples; ControllerError unless they are those of the record, all and no other."""
    if not isinstance(values, dict):
        raise ControllerError(f"{values!r:.40} is no JSON object")
    names = {field.name for field in fields(kind)}
    if set(values) != names:
        raise ControllerError(f"the fields differ by {', '.join(sorted(map(str, names ^ set(values))))}")
    found = {}
    for field in fields(kind):
        value, elements = values[field.name], _ELEMENTS.get(str(field.type))
        if elements is None:
            fits = type(value) in _VALUES[str(field.type)]
        else:
            fits = type(value) is list and all(type(element) in elements for element in value)
        if not fits:
            raise ControllerError(f"{field.name} is {value!r:.40}; it must be {field.type}")
        found[field.name] = value if elements is None else tuple(value)
    return found
