"""Policies as short texts: `edt(t0=0.8,theta=0.4) | min_p(0.05)`.

A policy is stages from left to right. `think: ... ; answer: ...` gives each phase its own. `str(policy)` writes it.
"""

from __future__ import annotations

import types
from dataclasses import MISSING, is_dataclass
from difflib import get_close_matches
from functools import cache
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from ..core.errors import ControllerError
from ..core.plugins import find_plugin, plugin_names
from ..core.text_form import LONGEST_NAME, Arguments, call_in, shown, split_top
from .chain import Chain, Greedy
from .composed import PerPhase
from .policy import Policy
from .stage import Stage, parameters_of
from .stages.grammar import Grammar
from .stages.kl_guided import KLGuided
from .stages.mirostat import Mirostat, MirostatV2
from .stages.no_wait import NoWait
from .stages.options import CyclicOptions, OptionLetter, OptionPrior
from .stages.penalties import DRY, BadWords, LogitBias, MinNewTokens, Penalties
from .stages.temperature import EAD, EDT, Dynatemp, Temperature
from .stages.truncation import XTC, Epsilon, Eta, MinP, TopH, TopK, TopNSigma, TopP, Typical

STAGES: dict[str, type[Stage]] = {
    stage.name: stage
    for stage in (
        Temperature,
        EDT,
        Dynatemp,
        EAD,
        KLGuided,
        TopK,
        TopP,
        MinP,
        Typical,
        Epsilon,
        Eta,
        TopNSigma,
        TopH,
        XTC,
        Mirostat,
        MirostatV2,
        Penalties,
        LogitBias,
        BadWords,
        MinNewTokens,
        DRY,
        NoWait,
        OptionLetter,
        OptionPrior,
        CyclicOptions,
        Grammar,
    )
}
"""Every stage that a text can name; packages that import this one add theirs with `register_stage`."""

BUILT_IN = frozenset({"greedy", "autodeco", *STAGES})
"""The names of our own, which no plugin is asked for."""

_ELSEWHERE = {"autodeco": "reasonctl.probes"}
"""Stages of other packages: they can be named once their package is imported."""

S = TypeVar("S", bound=Stage)


def register_stage(stage: type[S]) -> type[S]:
    """Let texts name a stage of another package."""
    STAGES[stage.name] = stage
    return stage


def parse_policy(text: str) -> Policy:
    """The policy that a text names; `str()` of it is a text again.

    Raises:
        ControllerError: a mistake in the text, in one line, with the nearest name that is known.

    >>> parse_policy("temperature(0.6) | top_p(0.95)")
    Chain('temperature(0.6) | top_p(0.95)')
    """
    parts = list(split_top(text, ";"))
    phases: dict[str, Policy] = {}
    for part in parts:
        phase, colon, chain = part.partition(":")
        if not colon or "(" in phase:
            if len(parts) > 1:
                raise ControllerError(
                    f"policy {shown(text.strip())}: name the phase of {shown(part.strip())}, think: or answer:"
                )
            return _chain(text)
        phase = phase.strip()
        if phase not in ("think", "answer") or phase in phases:
            what = f"names {phase} twice" if phase in phases else f"names a phase {shown(phase)}"
            raise ControllerError(f"policy {shown(text.strip())} {what}; the phases are think and answer")
        phases[phase] = _chain(chain)
    if len(phases) < 2:
        missing = "answer" if "think" in phases else "think"
        raise ControllerError(f"policy {shown(text.strip())} says nothing about the phase {missing}; give one for each")
    return PerPhase(phases["think"], phases["answer"])


def same_policy(one: str, other: str) -> bool:
    """Whether two texts name the same policy. A text that can't be read equals only itself.

    >>> same_policy("temperature(0.60)|top_p(1e0)", "temperature(0.6) | top_p(1)")
    True
    """
    try:
        return one == other or parse_policy(one) == parse_policy(other)
    except ControllerError:
        return False


def _chain(text: str) -> Chain:
    stages: list[Stage] = []
    parts = [part.strip() for part in split_top(text, "|")]
    for i, part in enumerate(parts):
        name, arguments = call_in(part, "policy", ("greedy", *STAGES), _ELSEWHERE, _plugged)
        if name != "greedy":
            stages.append(_build(_stage(name), arguments))
        elif arguments is not None or i < len(parts) - 1:
            raise ControllerError(f"policy {shown(text.strip())}: greedy stands alone, comes last and takes no value")
    return Greedy(*stages) if parts[-1] == "greedy" else Chain(*stages)


def _plugged() -> tuple[str, ...]:
    return plugin_names("stages")


def _stage(name: str) -> type[Stage]:
    """The stage of a known name; a plugin's is registered by its first use."""
    plugin = None if name in STAGES else find_plugin("stages", name)
    if plugin is not None:
        stage = plugin.load()
        if not (isinstance(stage, type) and issubclass(stage, Stage) and is_dataclass(stage) and stage.name == name):
            raise plugin.refuse(f"a Stage, as a dataclass whose name is {name!r}")
        register_stage(stage)
    return STAGES[name]


def _build(stage: type[Stage], arguments: Arguments | None) -> Stage:
    known = {field.name: field for field in parameters_of(stage)}
    hints, given = _hints(stage), dict[str, Any]()
    for place, (key, value) in enumerate(arguments or ()):
        name = key if key is not None else (list(known)[place] if place < len(known) else None)
        if name is None or name not in known:
            name = None if name is None else name[:LONGEST_NAME]
            near = get_close_matches(str(name), known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it takes {', '.join(known)}"
            raise ControllerError(f"{stage.name} takes no {name or 'argument number ' + str(place + 1)}; {hint}")
        if name in given:
            raise ControllerError(f"{stage.name} is given {name} twice; keep one")
        given[name] = coerced(value, hints[name], stage.name, name)
    for name, field in known.items():
        if name not in given and field.default is MISSING:
            raise _unfit(None, hints[name], stage.name, name)
    return stage(**given)


@cache
def _hints(stage: type[Stage]) -> dict[str, Any]:
    """The types of a stage's parameters: finding them costs more than all else of a policy's text."""
    return get_type_hints(stage)


def coerced(value: Any, hint: Any, stage: str, name: str) -> Any:
    """A value of a text, as the type of its field.

    Args:
        value: as `read_value` found it.
        hint: the field's type.
        stage: the stage's name, for errors.
        name: the field's name, for errors.

    Raises:
        ControllerError: it is no such value; the message shows how to write one.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if hint is float and number:
        return float(value)
    if hint is int and number:
        if not float(value).is_integer():
            raise ControllerError(f"{stage} is {shown(value)}; {name} must be a whole number")
        return int(value)
    if hint in (float, int):
        raise _unfit(value, hint, stage, name)
    if get_origin(hint) is tuple and isinstance(value, list):
        inner = get_args(hint)
        kinds = [inner[0]] * len(value) if inner[-1] is Ellipsis else inner
        if len(kinds) == len(value):
            return tuple(coerced(v, kind, stage, name) for v, kind in zip(value, kinds, strict=True))
    plain = hint if isinstance(hint, type) else str
    if not isinstance(hint, types.GenericAlias) and isinstance(value, plain):
        return value
    raise _unfit(value, hint, stage, name)


def _unfit(value: Any, hint: Any, stage: str, name: str) -> ControllerError:
    """What is wrong with a value, and how to write one."""
    if hint in (float, int):
        return ControllerError(f"{stage} needs a number in parentheses, e.g. {stage}({name}=1), not {shown(value)}")
    wanted = "a list" if get_origin(hint) is tuple else "true or false" if hint is bool else 'a "text"'
    return ControllerError(f"{stage}'s {name} is {shown(value)}; it must be {wanted}, e.g. {stage}({name}=...)")
