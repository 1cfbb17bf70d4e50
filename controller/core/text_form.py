"""The text form of policies and drafters: `name(value, key=value)`, read and written."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any

from .errors import ControllerError
from .json_text import parse


def read_value(text: str) -> Any:
    """An argument's value: a JSON value, a float as Python writes it, or else the text as a bare word."""
    try:
        return parse(text, "an argument")
    except ControllerError:  # a bare word, or a number with more digits than are read as a whole one
        pass
    try:
        return float(text)
    except ValueError:
        return text


def shown(value: Any, most: int = 120) -> str:
    """A value for an error, shortened.

    >>> shown("abc"), shown("a" * 50, most=10)
    ("'abc'", "'aaaaa...'")
    """
    text = repr(value[: most + 1] if isinstance(value, str | list | tuple) else value)
    return text if len(text) <= most else f"{text[: most - 4]}...{text[0] if isinstance(value, str) else ''}"


def write_value(value: Any) -> str:
    """The text of an argument, from which `read_value` gives it back; words like true and nan need their quotes."""
    if isinstance(value, str) and value.isidentifier() and read_value(value) == value:
        return value
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    return json.dumps(value, separators=(",", ":"), default=repr)


LONGEST_NAME = 64
"""Characters of an unknown name that are compared with the known ones."""
_NAME = re.compile(r"\s*([a-z_0-9]+)\s*")

Arguments = list[tuple[str | None, Any]]
"""(key or None, value) each."""
NOTHING_ELSEWHERE: Mapping[str, str] = MappingProxyType({})


def no_more() -> Sequence[str]:
    """No further names."""
    return ()


def split_top(text: str, mark: str) -> Iterator[str]:
    """The parts of a text between those of its marks (`|`, `;`, `,`) that stand outside of strings and brackets."""
    start = 0
    depth = 0
    at = 0
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


def call_in(
    part: str,
    kind: str,
    known: Sequence[str],
    elsewhere: Mapping[str, str] = NOTHING_ELSEWHERE,
    more: Callable[[], Sequence[str]] = no_more,
) -> tuple[str, Arguments | None]:
    """Read `name` or `name(value, key=value)`.

    Args:
        part: the text.
        kind: what is named, for errors: "policy" or "draft".
        known: the names that may stand there.
        elsewhere: names that become known once a package is imported, with that package.
        more: gives further names; asked only if the text's own is not among the known ones.

    Returns:
        The name, and its arguments: None without parentheses.

    Raises:
        ControllerError: nothing of that name is known, with the nearest one that is.
    """
    match = _NAME.match(part)
    name, rest = (match.group(1), part[match.end() :].rstrip()) if match else (part, "")
    if name not in known:
        known = (*known, *more())
    if match is None or name not in known or (rest and not (rest[0] == "(" and rest[-1] == ")")):
        raise _unknown(part, kind, known, elsewhere)
    if not rest:
        return name, None
    arguments: Arguments = []
    for piece in split_top(rest[1:-1], ","):
        key, equals, value = piece.partition("=")
        named = bool(equals) and key.strip().isidentifier()
        if piece.strip() or arguments:
            arguments.append((key.strip() if named else None, read_value((value if named else piece).strip())))
    return name, arguments


def _unknown(part: str, kind: str, known: Sequence[str], elsewhere: Mapping[str, str]) -> ControllerError:
    """What is wrong with the name of `part`."""
    name = part.partition("(")[0].strip()[:LONGEST_NAME]
    near = get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
    if name in elsewhere:
        hint = f"import {elsewhere[name]} first"
    if name in known:
        hint = f"write {name}(value) or {name}(name=value,...)"
    return ControllerError(f"unknown {kind} {shown(part.strip())}; {hint}")
