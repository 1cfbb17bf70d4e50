"""A collected run as types: what docs/runs-format.md says, field by field.

`RunRecord.from_json` reads one line of a file of runs, and refuses anything else. `to_json` gives the line again.
"""

from __future__ import annotations

import base64
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from reasonctl.controller import ControllerError
from reasonctl.controller.core import Fields

FORMAT = 5
"""Version of the format that is written."""
OLD_FORMAT = 4
"""The version before it, which is read too: an exit was tried at every cue, and no cue has a score."""
MOST = (1 << 31) - 1
"""Largest index, and largest number of tokens or characters."""
_LARGEST = {"problem": (1 << 63) - 1}
"""Largest whole number of a field, where it isn't MOST."""
_OPTIONAL = frozenset({"complete"})
"""Fields that are left out where nothing is known of them."""


def pack(values: npt.NDArray[np.float32]) -> str:
    """A float32 vector as base64 text, little-endian."""
    return base64.b64encode(values.astype("<f4").tobytes()).decode("ascii")


def unpack(text: str) -> npt.NDArray[np.float32]:
    """The vector that `pack` wrote.

    Raises:
        ControllerError: The text stands for no finite numbers.
    """
    try:
        values = np.frombuffer(base64.b64decode(text, validate=True), dtype="<f4")
    except ValueError:  # no base64, or bytes that are no whole numbers
        raise ControllerError("the hidden state is no base64 of float32 numbers; collect the run again") from None
    if not len(values) or not np.isfinite(values).all():
        raise ControllerError("the hidden state is empty or holds NaN or infinite values; collect the run again")
    return values


@dataclass(frozen=True, slots=True)
class CueRecord:
    """One cue of a run, and what an exit there would have given. The run itself went on as if nothing had happened.

    Where no exit was tried, `answer` and `tokens` are None, and nothing is known of `right` and `same`.
    """

    name: str
    """The cue: the first of its `names`."""
    names: tuple[str, ...]
    """The names of all cues that begin and end at these tokens."""
    position: int
    """Tokens after the prompt and before the cue."""
    row: int
    """Tokens after the prompt and before the cue's last token. `hidden` is from that token's row."""
    offset: int
    """Start of the cue's first token in the run's text, in characters."""
    tokens: int | None
    """Cost of a run that exits here, in tokens: all up to the cue, the cue, the next token, the exit. None: untried."""
    trial: int
    """Tokens fed and sampled for the trial answer."""
    answer: str | None
    """The trial answer. None: no exit was tried here."""
    logprobs: tuple[float, ...]
    """Log-probability of each token of the trial answer, end of sequence included; in nats, at temperature 1."""
    entropy: float
    """Entropy of the next-token distribution after the cue, in nats, at temperature 1."""
    value: str
    """The last number written before the cue; empty if there is none."""
    hidden: str
    """The outputs of the recipe's layers at the cue's last token, one after the other, as `pack` writes them."""
    right: bool = False
    """Whether the grader accepts the trial answer; False where nothing was graded, or there is no right answer."""
    same: bool = False
    """Whether the grader holds the trial answer equal to the whole run's; False where nothing was graded."""
    score: float | None = None
    """The frozen probe's score, as a deployed rule computes it. None: a fitting run, or nothing was frozen."""

    complete: bool | None = None
    """Whether the trial answer ended by itself, and not at a limit. None: untried, or the file is from before this."""

    @property
    def labelled(self) -> bool:
        """Whether an exit was tried here."""
        return self.answer is not None

    @property
    def state(self) -> npt.NDArray[np.float32]:
        """Shape (layers * width,): `hidden` as numbers."""
        return unpack(self.hidden)

    @classmethod
    def from_json(cls, values: Any, where: str = "the cue", version: int = FORMAT) -> CueRecord:
        """From parsed JSON; ControllerError for anything but a cue's object, with `where` it stands."""
        made = cls(**_checked(cls, Fields.of(values, where), version))
        if made.name not in made.names:
            raise ControllerError(f"{where} is named {made.name!r:.40}, which is none of its names")
        known = made.labelled
        if known != (made.tokens is not None) or not (known or version > OLD_FORMAT):
            raise ControllerError(f"{where} has an answer without its cost in tokens, or a cost without an answer")
        if not known and (made.trial or made.logprobs or made.right or made.same or made.complete is not None):
            raise ControllerError(f"{where} has no answer, and yet what only a trial could give")
        return made


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
    """All text after the prompt, without the end of sequence."""
    answer: str
    """The text after thinking."""
    cues: tuple[CueRecord, ...] = ()
    """The cues at which an exit rule is asked that waits for all of the job's cues, in order."""
    others: tuple[CueRecord, ...] = ()
    """The cues at which a rule is asked only if it waits for fewer of the job's cues, in order."""
    domain: str = ""
    """The group that the problem belongs to; empty if there are none."""
    gold: str | None = None
    """The right answer. None: it isn't known."""
    right: bool = False
    """Whether the grader accepts the answer; False where nothing was graded, or there is no right answer."""

    @classmethod
    def from_json(cls, values: Any, where: str = "the run", version: int = FORMAT) -> RunRecord:
        """From parsed JSON, the inverse of `to_json`; ControllerError for anything but a run's object."""
        return cls(**_checked(cls, Fields.of(values, where), version))

    def to_json(self) -> dict[str, Any]:
        """The record as a JSON object."""
        found = asdict(self)
        for cue in (*found["cues"], *found["others"]):
            for name in _OPTIONAL:
                if cue[name] is None:
                    del cue[name]
        return found


def _checked(kind: type[CueRecord] | type[RunRecord], found: Fields, version: int) -> dict[str, Any]:
    """The object's values, arrays as tuples; ControllerError unless they are those of the record, all and no other."""
    known = [field for field in fields(kind) if version > OLD_FORMAT or field.name != "score"]
    known = [field for field in known if field.name not in _OPTIONAL or field.name in found]
    found.only([field.name for field in known])
    return {field.name: _value(str(field.type), field.name, found, version) for field in known}


def _value(kind: str, name: str, found: Fields, version: int) -> Any:
    """The value of a record's field, by the field's annotation."""
    if kind == "int" or (kind == "int | None" and found.values[name] is not None):
        return found.whole(name, 0, _LARGEST.get(name, MOST))
    if kind == "int | None":
        return None
    if kind == "float | None":
        return found.number_or_null(name)
    if kind == "float":
        return found.number(name)
    if kind == "bool | None":
        return found.optional(found.flag, name)
    if kind == "bool":
        return found.flag(name)
    if kind == "str | None":
        return found.optional(found.text, name)
    if kind == "tuple[str, ...]":
        return tuple(found.texts(name))
    if kind == "tuple[float, ...]":
        return tuple(found.numbers(name))
    if kind == "tuple[CueRecord, ...]":
        cues = enumerate(found.items(name), start=1)
        return tuple(CueRecord.from_json(cue, f"cue {i} of {name!r} in {found.where}", version) for i, cue in cues)
    return found.text(name)
