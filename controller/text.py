"""Policies and drafters as short texts: `edt(t0=0.8,theta=0.4) | min_p(0.05)`, `hierarchy(16)`. Owns the grammar.

A policy is stages from left to right; `think: ... ; answer: ...` gives each phase its own; `str(policy)` writes it.
"""

from __future__ import annotations

import json
import re
import types
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from .chain import Chain, Greedy, PerPhase
from .drafters import Drafter, PromptLookup
from .errors import ControllerError
from .feedback import Mirostat, MirostatV2
from .guided import KLGuided
from .hierarchy import Hierarchy
from .model_draft import DraftModel, ModelDrafter
from .ngrams import load_table
from .penalties import DRY, BadWords, LogitBias, MinNewTokens, Penalties
from .planned import Kind
from .policy import Policy
from .stage import Stage
from .temperature import EAD, EDT, Dynatemp, Temperature
from .triforce import TriForce
from .truncation import XTC, Epsilon, Eta, MinP, TopH, TopK, TopNSigma, TopP, Typical

STAGES: dict[str, type[Stage]] = {
    stage.name: stage
    for stage in (
        Temperature, EDT, Dynatemp, EAD, KLGuided,
        TopK, TopP, MinP, Typical, Epsilon, Eta, TopNSigma, TopH, XTC,
        Mirostat, MirostatV2,
        Penalties, LogitBias, BadWords, MinNewTokens, DRY,
    )
}  # fmt: skip
"""Every stage that a text can name."""

_POLICIES = ("greedy", *STAGES)
_MODEL_DRAFTS: dict[str, Kind] = {"model": "chain", "cascade": "chain", "sequoia": "sequoia", "dyspec": "dyspec"}
_DRAFTS = ("none", "ngram", "hierarchy", "triforce", *_MODEL_DRAFTS)
_STEP = re.compile(r"\s*([a-z_0-9]+)\s*(?:\(\s*([^()]*?)\s*\))?\s*")
_NAME = re.compile(r"\s*([a-z_0-9]+)\s*")
_WORD = re.compile(r"[\w.+-]+")


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


def _chain(text: str) -> Chain:
    stages: list[Stage] = []
    parts = [part.strip() for part in _split_top(text, "|")]
    for i, part in enumerate(parts):
        name, arguments = _call(part)
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


def _call(part: str) -> tuple[str, list[tuple[str | None, Any]] | None]:
    """`name` or `name(value, key=value)` as a name and its arguments."""
    match = _NAME.match(part)
    name, rest = (match.group(1), part[match.end() :]) if match else (part, "")
    if match is None or name not in _POLICIES or (rest and not (rest[0] == "(" and rest[-1] == ")")):
        _unknown(part.partition("(")[0].strip(), part, "policy", _POLICIES)
    if not rest:
        return name, None
    arguments: list[tuple[str | None, Any]] = []
    for piece in _split_top(rest[1:-1], ","):
        key, equals, value = piece.partition("=")
        named = bool(equals) and key.strip().isidentifier()
        if piece.strip() or arguments:
            arguments.append((key.strip() if named else None, _value((value if named else piece).strip())))
    return name, arguments


def _value(text: str) -> Any:
    """A JSON value, a float as Python writes it, or a bare word."""
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return text


def _build(stage: type[Stage], arguments: list[tuple[str | None, Any]] | None) -> Stage:
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
        given[name] = _coerced(value, hints[name], stage.name, name)
    for name, field in known.items():
        if name not in given and field.default is MISSING:
            _coerced(None, hints[name], stage.name, name)
    return stage(**given)


def _coerced(value: Any, hint: Any, stage: str, name: str) -> Any:
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
            return tuple(_coerced(v, kind, stage, name) for v, kind in zip(value, kinds, strict=True))
    plain = hint if isinstance(hint, type) else str
    if not isinstance(hint, types.GenericAlias) and isinstance(value, plain):
        return value
    wanted = "a list" if get_origin(hint) is tuple else "true or false" if hint is bool else 'a "text"'
    raise ControllerError(f"{stage}'s {name} is {value!r}; it must be {wanted}, e.g. {stage}({name}=...)")


def _unknown(name: str, part: str, kind: str, known: tuple[str, ...]) -> None:
    near = get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
    if name in known:
        hint = f"write {name}(value) or {name}(name=value,...)"
    raise ControllerError(f"unknown {kind} {part.strip()!r}; {hint}")


def parse_draft(text: str, load: Callable[[str], DraftModel] | None = None) -> Drafter | None:
    """`none`, `ngram(8)`, `hierarchy(24, model=FILE, corpus=FILE)`; what stands in parentheses may be left out.

    With a smaller model: `model(MODEL, 8)` drafts chains, `cascade(MODEL, 8)` chains that n-grams draft for,
    `sequoia(MODEL, 16)` and `dyspec(MODEL, 16)` trees; `load` opens MODEL. `triforce(6, budget=1024, model=MODEL)`: the
    model itself with a part of its cache, drafted for by n-grams, or by MODEL.

    >>> parse_draft("ngram(4)")
    PromptLookup(longest=3, shortest=1, size=4)
    """
    name, argument = _split(text, "draft", _DRAFTS)
    if name == "none":
        return None
    if name in _MODEL_DRAFTS:
        return _model_drafter(name, argument, load)
    if name == "triforce":
        return _triforce(argument, load)
    size, files = _arguments(argument, name, ("model", "corpus") if name == "hierarchy" else ())
    if name == "ngram":
        return PromptLookup(size=size or PromptLookup.size)
    tables = {key: load_table(Path(value)) for key, value in files.items()}
    return Hierarchy(size=size or Hierarchy.size, model=tables.get("model"), corpus=tables.get("corpus"))


def _model_drafter(name: str, argument: str | None, load: Callable[[str], DraftModel] | None) -> ModelDrafter:
    model, _, rest = (argument or "").partition(",")
    if not model.strip():
        raise ControllerError(f"draft {name} needs a smaller model: {name}(MODEL) or {name}(MODEL, 16)")
    size, _ = _arguments(rest or None, name, ())
    chain = _MODEL_DRAFTS[name] == "chain"
    below = PromptLookup() if name == "cascade" else None
    size = size or (8 if chain else 16)
    return ModelDrafter(_opened(model.strip(), name, load), kind=_MODEL_DRAFTS[name], size=size, below=below)


def _triforce(argument: str | None, load: Callable[[str], DraftModel] | None) -> TriForce:
    size, named = _arguments(argument, "triforce", ("budget", "model"))
    below: Drafter | None = None
    if "model" in named:
        below = ModelDrafter(_opened(named["model"], "triforce", load), kind="chain", size=8, below=PromptLookup())
    budget = _whole(named["budget"], "triforce's budget") if "budget" in named else 1024
    return TriForce(below, size=size or 6, budget=budget)


def _opened(model: str, name: str, load: Callable[[str], DraftModel] | None) -> DraftModel:
    if load is None:
        raise ControllerError(f"draft {name} needs a model, which can't be opened here; make the drafter yourself")
    return load(model)


def _whole(text: str, what: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ControllerError(f"{what} is {text}; it must be a whole number, at least 1")
    return int(text)


def _arguments(argument: str | None, name: str, keys: tuple[str, ...]) -> tuple[int | None, dict[str, str]]:
    """(size, named values) of `name(8, key=value)`."""
    size, named = None, {}
    for part in argument.split(",") if argument is not None else ():
        key, sign, value = (side.strip() for side in part.partition("="))
        if not sign:
            number = _number(key, name)
            if number != int(number) or number < 1:
                raise ControllerError(f"draft size is {key}; it must be a whole number, at least 1")
            size = int(number)
        elif key in keys and value:
            named[key] = value
        else:
            raise ControllerError(
                f"draft {name} takes a size{''.join(f', {k}=...' for k in keys)}; not {part.strip()!r}"
            )
    return size, named


def _split(part: str, kind: str, known: tuple[str, ...]) -> tuple[str, str | None]:
    match = _STEP.fullmatch(part)
    name = match.group(1) if match else part.strip()
    if match is None or name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
        raise ControllerError(f"unknown {kind} {part.strip()!r}; {hint}")
    return name, match.group(2)


def _number(argument: str | None, name: str) -> float:
    try:
        return float(argument or "")
    except ValueError:
        raise ControllerError(f"{name} needs a number in parentheses, e.g. {name}(0.9), not {argument!r}") from None
