"""Policies as short texts: `edt(t0=0.8,theta=0.4) | min_p(0.05)`. Owns the grammar, which drafters' texts share.

A policy is stages from left to right; `think: ... ; answer: ...` gives each phase its own; `str(policy)` writes it.
"""

from __future__ import annotations

import re
import types
from collections.abc import Iterator
from dataclasses import MISSING, fields
from difflib import get_close_matches
from typing import Any, NoReturn, TypeVar, get_args, get_origin, get_type_hints

from .chain import Chain, Greedy
from .composed import PerPhase
from .errors import ControllerError
from .feedback import Mirostat, MirostatV2
from .grammar import Grammar
from .guided import KLGuided
from .no_wait import NoWait
from .penalties import DRY, BadWords, LogitBias, MinNewTokens, Penalties
from .policy import Policy
from .stage import Stage, read_value
from .temperature import EAD, EDT, Dynatemp, Temperature
from .truncation import XTC, Epsilon, Eta, MinP, TopH, TopK, TopNSigma, TopP, Typical

STAGES: dict[str, type[Stage]] = {
    stage.name: stage
    for stage in (
        Temperature, EDT, Dynatemp, EAD, KLGuided,
        TopK, TopP, MinP, Typical, Epsilon, Eta, TopNSigma, TopH, XTC,
        Mirostat, MirostatV2,
        Penalties, LogitBias, BadWords, MinNewTokens, DRY, NoWait, Grammar,
    )
}  # fmt: skip
"""Every stage that a text can name; packages that import this one add theirs with `register_stage`."""

_ELSEWHERE = {"autodeco": "reasonctl.probes"}
"""Stages of other packages: they can be named once their package is imported."""

S = TypeVar("S", bound=Stage)
_NAME = re.compile(r"\s*([a-z_0-9]+)\s*")

Arguments = list[tuple[str | None, Any]]
"""(key or None, value) each."""


def register_stage(stage: type[S]) -> type[S]:
    """Let texts name a stage of another package."""
    STAGES[stage.name] = stage
    return stage


def parse_policy(text: str) -> Policy:
    """The policy that a text names; `str()` of it is a text again. Raises ControllerError, in one line, for mistakes.

    >>> parse_policy("temperature(0.6) | top_p(0.95)")
    Chain('temperature(0.6) | top_p(0.95)')
    """
    parts = list(_split_top(text, ";"))
    phases: dict[str, Policy] = {}
    for part in parts:
        phase, colon, chain = part.partition(":")
        if not colon or "(" in phase:
            if len(parts) > 1:
                raise ControllerError(f"policy {text.strip()!r}: name the phase of {part.strip()!r}, think: or answer:")
            return _chain(text)
        phase = phase.strip()
        if phase not in ("think", "answer") or phase in phases:
            what = f"names {phase} twice" if phase in phases else f"names a phase {phase!r}"
            raise ControllerError(f"policy {text.strip()!r} {what}; the phases are think and answer")
        phases[phase] = _chain(chain)
    if len(phases) < 2:
        missing = "answer" if "think" in phases else "think"
        raise ControllerError(f"policy {text.strip()!r} says nothing about the phase {missing}; give one for each")
    return PerPhase(phases["think"], phases["answer"])


def same_policy(one: str, other: str) -> bool:
    """Whether two texts name one law, however they are written; a text that can't be read here is itself alone.

    >>> same_policy("temperature(0.60)|top_p(1e0)", "temperature(0.6) | top_p(1)")
    True
    """
    try:
        return one == other or parse_policy(one) == parse_policy(other)
    except ControllerError:
        return False


def _chain(text: str) -> Chain:
    stages: list[Stage] = []
    parts = [part.strip() for part in _split_top(text, "|")]
    for i, part in enumerate(parts):
        name, arguments = call_in(part, "policy", ("greedy", *STAGES))
        if name != "greedy":
            stages.append(_build(STAGES[name], arguments))
        elif arguments is not None or i < len(parts) - 1:
            raise ControllerError(f"policy {text.strip()!r}: greedy stands alone, comes last and takes no value")
    return Greedy(*stages) if parts[-1] == "greedy" else Chain(*stages)


def _split_top(text: str, mark: str) -> Iterator[str]:
    """Parts between marks that stand outside of strings and brackets."""
    start, depth, at = 0, 0, 0
    while at < len(text):
        character = text[at]
        if character == '"':
            at += 1
            while at < len(text) and text[at] != '"':
                at += 2 if text[at] == "\\" else 1
        elif character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        elif character == mark and depth == 0:
            yield text[start:at]
            start = at + 1
        at += 1
    yield text[start:]


def call_in(part: str, kind: str, known: tuple[str, ...]) -> tuple[str, Arguments | None]:
    """`name` or `name(value, key=value)` as a name and its arguments."""
    match = _NAME.match(part)
    name, rest = (match.group(1), part[match.end() :].rstrip()) if match else (part, "")
    if match is None or name not in known or (rest and not (rest[0] == "(" and rest[-1] == ")")):
        unknown(part, kind, known)
    if not rest:
        return name, None
    arguments: Arguments = []
    for piece in _split_top(rest[1:-1], ","):
        key, equals, value = piece.partition("=")
        named = bool(equals) and key.strip().isidentifier()
        if piece.strip() or arguments:
            arguments.append((key.strip() if named else None, read_value((value if named else piece).strip())))
    return name, arguments


def _build(stage: type[Stage], arguments: Arguments | None) -> Stage:
    known = {field.name: field for field in fields(stage)}  # type: ignore[arg-type]
    hints, given = get_type_hints(stage), dict[str, Any]()
    for place, (key, value) in enumerate(arguments or ()):
        name = key if key is not None else (list(known)[place] if place < len(known) else None)
        if name is None or name not in known:
            near = get_close_matches(str(name), known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it takes {', '.join(known)}"
            raise ControllerError(f"{stage.name} takes no {name or 'argument number ' + str(place + 1)}; {hint}")
        if name in given:
            raise ControllerError(f"{stage.name} is given {name} twice; keep one")
        given[name] = coerced(value, hints[name], stage.name, name)
    for name, field in known.items():
        if name not in given and field.default is MISSING:
            coerced(None, hints[name], stage.name, name)
    return stage(**given)


def coerced(value: Any, hint: Any, stage: str, name: str) -> Any:
    """The value as its field's type; a ControllerError that shows how to write it."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if hint is float and number:
        return float(value)
    if hint is int and number:
        if not float(value).is_integer():
            raise ControllerError(f"{stage} is {value}; {name} must be a whole number")
        return int(value)
    if hint in (float, int):
        raise ControllerError(f"{stage} needs a number in parentheses, e.g. {stage}({name}=1), not {value!r}")
    if get_origin(hint) is tuple and isinstance(value, list):
        inner = get_args(hint)
        kinds = [inner[0]] * len(value) if inner[-1] is Ellipsis else inner
        if len(kinds) == len(value):
            return tuple(coerced(v, kind, stage, name) for v, kind in zip(value, kinds, strict=True))
    plain = hint if isinstance(hint, type) else str
    if not isinstance(hint, types.GenericAlias) and isinstance(value, plain):
        return value
    wanted = "a list" if get_origin(hint) is tuple else "true or false" if hint is bool else 'a "text"'
    raise ControllerError(f"{stage}'s {name} is {value!r}; it must be {wanted}, e.g. {stage}({name}=...)")


def unknown(part: str, kind: str, known: tuple[str, ...]) -> NoReturn:
    name = part.partition("(")[0].strip()
    near = get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
    if name in _ELSEWHERE:
        hint = f"import {_ELSEWHERE[name]} first"
    if name in known:
        hint = f"write {name}(value) or {name}(name=value,...)"
    raise ControllerError(f"unknown {kind} {part.strip()!r}; {hint}")
