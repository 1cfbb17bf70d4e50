"""Policies and drafters as short texts, for the command line: `temperature(0.6) | top_p(0.95)`, `ngram(8)`."""

from __future__ import annotations

import re
from difflib import get_close_matches

from .drafters import Drafter, PromptLookup
from .errors import ControllerError
from .policy import Greedy, Policy, Sampling

_STEP = re.compile(r"\s*([a-z_0-9]+)\s*(?:\(\s*([^()]*?)\s*\))?\s*")
_STEPS = ("temperature", "top_k", "top_p", "min_p")
_POLICIES = ("greedy", *_STEPS)
_DRAFTS = ("none", "ngram")


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


def parse_draft(text: str) -> Drafter | None:
    """`none`, `ngram` or `ngram(size)`."""
    name, argument = _split(text, "draft", _DRAFTS)
    if name == "none":
        return None
    size = _number(argument, name) if argument is not None else PromptLookup.size
    if size != int(size):
        raise ControllerError(f"draft size is {size}; it must be a whole number")
    return PromptLookup(size=int(size))


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
