"""What is asked of the engine when it starts, and of each request: read from JSON that others wrote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from reasonctl.controller import ControllerError, Cues, ExitForm, ExitRule, Markers
from reasonctl.controller.thinking import FORM_MEANS, parse_form
from reasonctl.probes import NeverExit, ProbeExit, Promise, load_probe, make_exit
from reasonctl.probes.risk import Mode

RECORD = "record"
"""The engine's option under which runs are recorded, in place of a probe."""
KEY = "reasonctl"
"""Where `--additional-config` holds the engine's options."""
PREFIX = "reasonctl_"
"""What the names of a request's arguments in `vllm_xargs` begin with."""


@dataclass(frozen=True)
class EngineOptions:
    """The engine's options, equal in all of its processes."""

    probe: str
    """The probe file; every machine must have it under this path."""
    risk: float = 0.05
    """The risk of requests that name none."""
    confidence: float | None = 0.9
    """The confidence of the promise. None: marginal."""
    mode: Mode = "harm"
    """What a risk bounds."""
    domain: str | None = None
    """Promise for problems of this domain only."""
    give_up: float | None = None
    """Also leave runs that score too low for their length, at this risk."""
    replicas: int = 1
    """Engines that share one stream of requests: each tests for drift at a level divided by their number."""

    @classmethod
    def of(cls, additional: object) -> EngineOptions | None:
        """From vLLM's `additional_config`; None if it says nothing of reasonctl.

        Raises:
            ControllerError: An option is foreign, or of another kind.
        """
        given = additional.get(KEY) if isinstance(additional, Mapping) else None
        if given is None:
            return None
        if not isinstance(given, Mapping):
            raise ControllerError(
                f"--additional-config has {KEY}: {given!r:.60}; give an object with a probe file, e.g. "
                '{"reasonctl": {"probe": "my.probe.safetensors", "risk": 0.05}}'
            )
        names = [field.name for field in fields(cls)]
        foreign = [name for name in given if name not in names]
        if foreign:
            raise ControllerError(f"--additional-config has {KEY}.{foreign[0]!s:.40}; it takes {', '.join(names)}")
        made = cls(**{"probe": "", **given})
        made._check()
        return made

    def _check(self) -> None:
        if not isinstance(self.probe, str) or not self.probe:
            raise ControllerError(f"{KEY}.probe is {self.probe!r:.40}; give the path of a probe file")
        _in_unit("risk", self.risk)
        if self.confidence is not None:
            _in_unit("confidence", self.confidence)
        if type(self.replicas) is not int or self.replicas < 1:
            raise ControllerError(f"{KEY}.replicas is {self.replicas!r:.40}; give the number of engines, 1 or more")

    def rule(self) -> ProbeExit:
        """The exit rule.

        Raises:
            ControllerError: The file isn't whole, or vLLM can't do what its rule needs.
        """
        promise = Promise(self.mode, self.risk, self.confidence, "hidden", self.domain, self.give_up)
        rule = make_exit(load_probe(self.probe), promise)
        check_rule(rule)
        return rule


def check_rule(rule: ProbeExit) -> None:
    """Raise ControllerError if a rule asks for what vLLM has no way to do."""
    if rule.always_answer:
        raise ControllerError(
            "the probe was calibrated with --always-answer, which closes thinking at an end of the sequence, and in "
            "vLLM such a run is over; calibrate one without it, or serve with ctl serve on transformers"
        )


@dataclass(frozen=True)
class RecordOptions:
    """What is recorded of runs that are collected: nothing exits. We write these options ourselves.

    They hold nothing that differs from job to job, since vLLM compiles a model anew for other options.
    """

    blocks: tuple[int, ...]
    """The blocks whose outputs are recorded, in this order."""
    cues: tuple[str, ...]
    """The cues at which they are recorded."""
    markers: tuple[str, str] | None
    """The texts that open and close thinking."""
    form: ExitForm
    """Of the exits that are tried later: it says which rows are wanted."""

    @classmethod
    def of(cls, additional: object) -> RecordOptions | None:
        """From vLLM's `additional_config`; None if nothing is recorded.

        Raises:
            ControllerError: An entry is missing or foreign.
        """
        given = additional.get(KEY) if isinstance(additional, Mapping) else None
        record = given.get(RECORD) if isinstance(given, Mapping) else None
        if record is None:
            return None
        names = {field.name for field in fields(cls)}
        if not isinstance(record, Mapping) or set(record) != names:
            raise ControllerError(f"--additional-config has {KEY}.{RECORD}; it needs {', '.join(sorted(names))}")
        markers = record["markers"]
        return cls(
            tuple(int(block) for block in record["blocks"]),
            tuple(record["cues"]),
            None if markers is None else (markers[0], markers[1]),
            parse_form(record["form"]),
        )

    def rule(self) -> NeverExit:
        """A rule that waits for the same cues."""
        markers = None if self.markers is None else Markers(*self.markers)
        return NeverExit(cues=Cues(self.cues), suffix="\n", markers=markers, form=self.form)


@dataclass(frozen=True)
class RequestOptions:
    """One request's arguments, from `vllm_xargs`."""

    risk: float | None = None
    """Its own risk. None: the engine's."""
    off: bool = False
    """It runs in full: no cue is sought."""
    shadow: bool = False
    """Decisions are made and counted, and nothing is done about them."""
    client: int | None = None
    """The stop token of a client that makes the exit itself. None: a plain request."""
    answer: bool = False
    """The prompt ends in an exit's suffix, so what comes is the answer."""
    record: int | None = None
    """The number under which the run is recorded, where the engine records."""

    @classmethod
    def of(cls, extra: Mapping[str, Any] | None) -> RequestOptions:
        """From a request's extra arguments; those of others are left alone.

        Raises:
            ControllerError: One of ours is unknown, or of another kind.
        """
        given = {name[len(PREFIX) :]: value for name, value in (extra or {}).items() if name.startswith(PREFIX)}
        names = [field.name for field in fields(cls)]
        foreign = [name for name in given if name not in names]
        if foreign:
            known = ", ".join(PREFIX + name for name in names)
            raise ControllerError(f"{PREFIX}{foreign[0]:.40} is no argument of reasonctl; it has {known}")
        if given.get("risk") is not None:
            _in_unit(f"{PREFIX}risk", given["risk"])
        for name in ("off", "shadow", "answer"):
            if name in given:
                given[name] = _flag(PREFIX + name, given[name])
        for name, kind in (("client", "the id of a token"), ("record", "the number of a run")):
            if name in given:
                given[name] = _whole(PREFIX + name, given[name], kind)
        return cls(**given)

    def check(self, rule: ExitRule) -> None:
        """Raise ControllerError if the request asks for an exit that only our client can make."""
        if self.risk is None or self.client is not None or self.off or rule.form == "append-open":
            return
        raise ControllerError(
            f"{PREFIX}risk is given, and the probe's exits have the form {rule.form!r} ({FORM_MEANS[rule.form]}), "
            "which needs reasonctl's client; ask through it, or use a probe calibrated with --form append-open"
        )


def _in_unit(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise ControllerError(f"{name} is {value!r:.40}; it must lie between 0 and 1, e.g. 0.05")


def _flag(name: str, value: object) -> bool:
    """vllm_xargs hold numbers and texts, so that a flag is 1 or 0."""
    if isinstance(value, bool) or (isinstance(value, int | float) and value in (0, 1)):
        return bool(value)
    raise ControllerError(f"{name} is {value!r:.40}; it must be 1 or 0")


def _whole(name: str, value: object, kind: str) -> int:
    """A whole number; JSON may have it as a float."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1 << 31 or value % 1:
        raise ControllerError(f"{name} is {value!r:.40}; it must be {kind}")
    return int(value)
