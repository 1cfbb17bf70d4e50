"""The card of a probe file: what its promise was made for, and whether a model is the one that it was fitted on."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, Protocol, TypedDict

from reasonctl.controller import (
    AnswerEnds,
    Closing,
    ControllerError,
    Cues,
    Effort,
    ExitForm,
    Markers,
    parse_efforts,
)
from reasonctl.controller.core import Fields
from reasonctl.controller.thinking import EXIT_FORMS

from ..risk.stopping import Stopping
from ..risk.threshold import MODES
from ..signals.probe import layer_of

_PATH = re.compile(r"[/\\~]|[A-Za-z]:[/\\]")

Scalar = str | int | float | bool | None
"""A value that a card may hold by name."""

MAPS = ("sampler", "seeds", "runs", "settings", "versions", "report")
"""The entries of a probe's card that hold values by name."""
MOST = (1 << 31) - 1
"""Largest number of layers, tokens and the like."""
MOST_TEXT = 200
"""Longest name of a cue or a domain, and longest marker, in characters."""
MOST_EFFORTS = 2000
"""Longest text that defines efforts, in characters."""
LABELS = ("records", "all")
"""At which cues of the calibration runs exits were tried."""
ADDED = ("labels", "form", "runs_sha256", "stopping", "answer_ends", "always_answer", "later_spans", "efforts")
"""Entries that older cards don't have; one that has its default is left out of the file."""
MOST_SEED = 1 << 64
"""Largest seed."""


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What the card of every file says: the model, and the runs that something was made from.

    It holds plain values only: no times, and no paths of this machine.
    """

    fingerprint: str
    """Hash of the model's shape and vocabulary (`Model.fingerprint`)."""
    depth: int
    """Number of the model's blocks."""
    width: int
    """Length of its hidden states."""
    template: str
    """`template_hash` of its chat template."""
    sampler: dict[str, Scalar]
    """How the runs were sampled: the policy and, for a probe, the length of trial answers."""
    tasks: str
    """Where the problems came from."""
    grader: str | None
    """What graded the answers. None: there were no gold answers."""
    seeds: dict[str, int]
    """Seeds, by purpose."""
    runs: dict[str, int]
    """Number of runs, by what they were used for."""
    settings: dict[str, str] = field(default_factory=dict)
    """What changes the model's hidden states slightly, such as its quantisation."""
    versions: dict[str, str] = field(default_factory=dict)
    """Versions, by library."""
    report: dict[str, Scalar] = field(default_factory=dict)
    """Figures of the fit."""


@dataclass(frozen=True, kw_only=True)
class Card(ModelCard):
    """What a probe's promise was made for."""

    layers: tuple[float, ...]
    """The blocks that the probe reads, as fractions of depth."""
    cues: tuple[str, ...]
    """What counts as a cue."""
    markers: tuple[str, str] | None
    """The texts that open and close thinking. None: there are none."""
    suffix: str
    """The text that an exit feeds, in the cue's place or after it."""
    max_cues: int
    """Most cues of a run at which the rule is asked."""
    max_new_tokens: int
    """Most tokens of a run after its prompt."""
    mode: str
    """The failure that the probe learned to foresee."""
    domains: tuple[str, ...] = ("",)
    """Names of the table's domains; the problems of a task without domains are all in ""."""
    labels: str = "all"
    """`all`: exits were tried at every cue of the calibration runs; `records`: only where a threshold can choose."""
    form: ExitForm = "replace"
    """What becomes of the cue on exit. Older files don't say: the suffix takes its place."""
    runs_sha256: str = ""
    """Of the calibration runs' lines. Empty: the runs were split at random, as files before format 5 were."""
    stopping: Stopping | None = None
    """When collecting could have stopped. None: the number of runs was fixed before."""
    answer_ends: AnswerEnds = "model"
    """What ends the answer after an exit. Older files don't say: the model did."""
    always_answer: bool = False
    """In the calibration runs an end of the sequence inside thinking closed it, and the model answered."""
    later_spans: bool = False
    """The rule is asked in every thinking span until its first exit; else in a run's first span only."""
    efforts: str = ""
    """What names such as "low" stand for, as `ctl run --efforts` takes them; they were fixed before the calibration."""

    def __post_init__(self) -> None:
        check_plain(
            self,
            numbers=("depth", "width", "max_cues", "max_new_tokens"),
            texts=(
                *("fingerprint", "template", "suffix", "mode", "labels", "form", "runs_sha256", "answer_ends"),
                "efforts",
            ),
            named=("tasks", "grader"),
            maps=MAPS,
        )
        self._check_numbers()
        for name in ("always_answer", "later_spans"):
            if type(value := getattr(self, name)) is not bool:
                raise ControllerError(f"the card's {name} is {value!r:.40}; it must be true or false")
        if self.mode not in MODES:
            raise ControllerError(f"the card's mode is {self.mode!r:.40}; it must be one of {', '.join(MODES)}")
        if self.labels not in LABELS:
            raise ControllerError(f"the card's labels are {self.labels!r:.40}; they must be {' or '.join(LABELS)}")
        if self.form not in EXIT_FORMS:
            raise ControllerError(
                f"the card's form is {self.form!r:.40}, and this reasonctl makes exits in the forms "
                f"{', '.join(EXIT_FORMS)}; use the reasonctl that made the file, or make it again: ctl calibrate"
            )
        if len(self.efforts) > MOST_EFFORTS:
            raise ControllerError(f"the card's efforts have {len(self.efforts)} characters; at most {MOST_EFFORTS} do")
        _ = self.named_efforts
        if not self.suffix.strip():
            raise ControllerError("the card's suffix is empty; it must be the text that closes thinking")
        Closing(self.suffix, self.answer_ends)
        blocks = [layer_of(fraction, self.depth) for fraction in self.layers]
        if not blocks or len(set(blocks)) < len(blocks):
            raise ControllerError(
                f"the card's layers are blocks {blocks[:9]} of {self.depth}; give one or more, each once"
            )
        if not self.domains or len(set(self.domains)) < len(self.domains):
            raise ControllerError(f"the card's domains are {self.domains[:4]!s:.200}; give one or more, each once")
        Cues(self.cues)
        if self.markers is not None:
            Markers(*self.markers)

    @property
    def named_efforts(self) -> dict[str, int | float | Effort]:
        """Efforts by name; a number is a budget. Raises ControllerError where the text says something else."""
        return parse_efforts(self.efforts) if self.efforts else {}

    def _check_numbers(self) -> None:
        """Check the entries of `seeds`, `runs`, `sampler` and `report` that other code computes with."""
        for name in ("seeds", "runs"):
            for key, value in getattr(self, name).items():
                if type(value) is not int or abs(value) > MOST_SEED:
                    raise ControllerError(f"the card's {name}[{key!r:.40}] is {value!r:.40}; it must be a whole number")
        if min(self.runs.values(), default=0) < 0:
            raise ControllerError("the card's runs hold a negative number; make the file again")
        length = self.sampler.get("answer_tokens", 1)
        if type(length) is not int or not 1 <= length <= MOST:
            raise ControllerError(f"the card's answer_tokens is {length!r:.40}; it must be a whole number, at least 1")
        for name in ("auc", "answers_cut"):
            value = self.report.get(name, 0.0)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ControllerError(f"the card's report says {name} is {value!r:.40}; it must be a number")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Card:
        """From parsed JSON.

        Raises:
            ControllerError: An entry is missing, foreign or of another type.
        """
        values = {**{name: default for name, default in _added().items() if name not in values}, **values}
        check_entries(cls, values)
        found = Fields.of(dict(values), "the card")
        found.numbers("layers")
        for name in ("cues", "domains", "markers"):
            texts = found.optional(found.texts, name) if name == "markers" else found.texts(name)
            if any(len(text) > MOST_TEXT for text in texts or ()):
                found.refuse(name, f"a list of texts of at most {MOST_TEXT} characters")
        markers = found.optional(found.texts, "markers")
        if markers is not None and len(markers) != 2:
            found.refuse("markers", "two texts, or null")
        for name in MAPS:
            found.inner(name)
        read: dict[str, Any] = {name: tuple(values[name]) for name in ("layers", "cues", "domains")}
        read["markers"] = None if markers is None else (markers[0], markers[1])
        read["stopping"] = None if values["stopping"] is None else Stopping.from_json(values["stopping"])
        return cls(**{**values, **read})

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON; a card that older versions could make has the bytes that they gave it."""
        values = asdict(self)
        values["stopping"] = None if self.stopping is None else self.stopping.to_json()
        return {name: value for name, value in values.items() if name not in ADDED or value != _added()[name]}


def _added() -> dict[str, Any]:
    """The defaults of the entries that older cards don't have."""
    return {entry.name: entry.default for entry in fields(Card) if entry.name in ADDED and entry.default is not MISSING}


def check_entries(kind: type[Any], values: Mapping[str, Any]) -> None:
    """Raise ControllerError unless `values` names the fields of a card's class, all and no other."""
    names = {entry.name for entry in fields(kind)}
    if set(values) != names:
        different = f"{sorted(names ^ set(values))}"
        raise ControllerError(f"the card's entries differ by {different:.200}; make the file again")


def check_plain(
    card: Any, *, numbers: Sequence[str], texts: Sequence[str], named: Sequence[str], maps: Sequence[str]
) -> None:
    """Raise ControllerError unless a card holds plain values.

    Args:
        card: A dataclass.
        numbers: Fields that must be whole and positive.
        texts: Fields that must be texts.
        named: Fields that must be texts, and no path of this machine; `grader` may be None.
        maps: Fields that must hold finite scalars, and no path of this machine.
    """
    for name in numbers:
        value = getattr(card, name)
        if type(value) is not int or not 1 <= value <= MOST:
            raise ControllerError(f"the card's {name} is {value!r:.40}; it must be a whole number from 1 to {MOST}")
    for name in (*texts, *named):
        value = getattr(card, name)
        if not (isinstance(value, str) or (value is None and name == "grader")):
            raise ControllerError(f"the card's {name} is {value!r:.40}; it must be a text")
    found: dict[str, Any] = {name: getattr(card, name) for name in named}
    for name in maps:
        for key, value in getattr(card, name).items():
            broken = isinstance(value, float) and not math.isfinite(value)
            if broken or not (value is None or isinstance(value, str | int | float)):
                raise ControllerError(f"the card's {name}[{key!r:.40}] is {value!r:.40}; it must be a number or a text")
            found[f"{name}[{key!r}]"] = value
    for name, value in found.items():
        if isinstance(value, str) and _PATH.match(value):
            raise ControllerError(f"the card's {name:.80} is {value!r:.80}, a path; give a name or a hash instead")


def template_hash(template: str | None) -> str:
    """The sha256 of a chat template, in hexadecimal; empty if the model has none."""
    return "" if template is None else hashlib.sha256(template.encode()).hexdigest()


class OriginEntries(TypedDict):
    """The entries of a card that identify its model; see `ModelCard`."""

    fingerprint: str
    depth: int
    width: int
    template: str
    settings: dict[str, str]


class LoadedModel(Protocol):
    """A model that a card is compared with; `backends.Model` is one."""

    @property
    def depth(self) -> int: ...

    @property
    def width(self) -> int: ...

    @property
    def template(self) -> str | None: ...

    @property
    def settings(self) -> dict[str, str]: ...

    def fingerprint(self) -> str: ...


def origin_of(model: LoadedModel) -> OriginEntries:
    """The entries that a card of this model holds."""
    return {
        "fingerprint": model.fingerprint(),
        "depth": model.depth,
        "width": model.width,
        "template": template_hash(model.template),
        "settings": model.settings,
    }


def check_model(
    card: ModelCard,
    model: LoadedModel,
    *,
    what: str = "probe was",
    make: str = "Make a probe for it: ctl calibrate",
    again: str = "the probe with ctl eval",
) -> list[str]:
    """Compare a model with the card of a file.

    Args:
        card: The card.
        model: The model in use.
        what: The file's content and a verb, as an error begins: `probe was`.
        make: The remedy that an error ends with.
        again: What a warning asks to check, and how.

    Returns:
        Warnings about small differences.

    Raises:
        ControllerError: The card is of another model.
    """
    own = origin_of(model)
    depth, width = own["depth"], own["width"]
    if own["fingerprint"] != card.fingerprint:
        same_shape = (depth, width) == (card.depth, card.width)
        this = "the same shape but another vocabulary" if same_shape else f"{depth} layers of width {width}"
        raise ControllerError(
            f"{what} fitted on a {card.depth}-layer model of width {card.width}; this model has {this}. {make}"
        )
    warnings = []
    if own["template"] != card.template:
        warnings.append(f"the chat template differs from the one of the calibration; check {again}")
    pairs = setting_pairs(own["settings"], card.settings)
    if differ := [difference(*pair) for pair in pairs if pair[1] != pair[2]]:
        warnings.append(f"{'; '.join(differ)}: check {again}")
    return warnings


def setting_pairs(used: Mapping[str, Scalar], was: Mapping[str, Scalar]) -> list[tuple[str, Scalar, Scalar]]:
    """By name: a setting in use, and the calibration's."""
    return [(name, used.get(name, "not set"), was.get(name, "not set")) for name in sorted({*used, *was})]


def difference(name: str, used: Any, was: Any) -> str:
    """How a setting in use differs from the calibration's, in words."""
    return f"{name} is {used!r}, calibrated with {was!r}"
