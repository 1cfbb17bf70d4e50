"""Policies and drafters as short texts, for the command line: `temperature(0.6) | top_p(0.95)`, `hierarchy(16)`."""

from __future__ import annotations

import re
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path

from .drafters import Drafter, PromptLookup
from .errors import ControllerError
from .hierarchy import Hierarchy
from .model_draft import DraftModel, Kind, ModelDrafter
from .ngrams import load_table
from .policy import Greedy, Policy, Sampling

_STEP = re.compile(r"\s*([a-z_0-9]+)\s*(?:\(\s*([^()]*?)\s*\))?\s*")
_STEPS = ("temperature", "top_k", "top_p", "min_p")
_POLICIES = ("greedy", *_STEPS)
_MODEL_DRAFTS: dict[str, Kind] = {"model": "chain", "cascade": "chain", "sequoia": "sequoia", "dyspec": "dyspec"}
_DRAFTS = ("none", "ngram", "hierarchy", *_MODEL_DRAFTS)


def parse_policy(text: str) -> Policy:
    """A sampling policy; truncation acts after temperature, in the order top-k, top-p, min-p.

    >>> parse_policy("temperature(0.6) | top_p(0.95)")
    Sampling(temperature=0.6, top_k=0, top_p=0.95, min_p=0.0, temperature_first=True)
    """
    values: dict[str, float] = {}
    for part in text.split("|"):
        name, argument = _split(part, "policy", _POLICIES)
        if name == "greedy":
            if "|" in text or argument is not None:
                raise ControllerError(f"policy {text.strip()!r}: greedy stands alone and takes no value")
            return Greedy()
        if name in values:
            raise ControllerError(f"policy {text.strip()!r} names {name} twice")
        values[name] = _number(argument, name)
    if values.get("temperature") == 0:
        raise ControllerError("policy temperature(0) divides by zero; use greedy")
    top_k = values.get("top_k", 0)
    if top_k != int(top_k):
        raise ControllerError(f"top_k is {top_k}; it must be a whole number")
    return Sampling(
        temperature=values.get("temperature", 1.0),
        top_k=int(top_k),
        top_p=values.get("top_p", 1.0),
        min_p=values.get("min_p", 0.0),
    )


def parse_draft(text: str, load: Callable[[str], DraftModel] | None = None) -> Drafter | None:
    """`none`, `ngram(8)`, `hierarchy(24, model=FILE, corpus=FILE)`; what stands in parentheses may be left out.

    With a smaller model: `model(MODEL, 8)` drafts chains, `cascade(MODEL, 8)` chains that n-grams draft for,
    `sequoia(MODEL, 16)` and `dyspec(MODEL, 16)` trees; `load` opens MODEL.

    >>> parse_draft("ngram(4)")
    PromptLookup(longest=3, shortest=1, size=4)
    """
    name, argument = _split(text, "draft", _DRAFTS)
    if name == "none":
        return None
    if name in _MODEL_DRAFTS:
        return _model_drafter(name, argument, load)
    size, files = _arguments(argument, name, ("model", "corpus") if name == "hierarchy" else ())
    if name == "ngram":
        return PromptLookup(size=size or PromptLookup.size)
    tables = {key: load_table(Path(value)) for key, value in files.items()}
    return Hierarchy(size=size or Hierarchy.size, model=tables.get("model"), corpus=tables.get("corpus"))


def _model_drafter(name: str, argument: str | None, load: Callable[[str], DraftModel] | None) -> ModelDrafter:
    model, _, rest = (argument or "").partition(",")
    if not model.strip():
        raise ControllerError(f"draft {name} needs a smaller model: {name}(MODEL) or {name}(MODEL, 16)")
    if load is None:
        raise ControllerError(f"draft {name} needs a model, which can't be opened here; make a ModelDrafter yourself")
    size, _ = _arguments(rest or None, name, ())
    chain = _MODEL_DRAFTS[name] == "chain"
    below = PromptLookup() if name == "cascade" else None
    size = size or (8 if chain else 16)
    return ModelDrafter(load(model.strip()), kind=_MODEL_DRAFTS[name], size=size, below=below)


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
                f"draft {name} takes a size{''.join(f', {k}=FILE' for k in keys)}; not {part.strip()!r}"
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
