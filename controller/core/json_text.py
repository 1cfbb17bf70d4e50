"""The one way in which files and requests of JSON are read: bounded, checked field by field, one clear error.

A file is somebody else's: it may be torn, huge, nested a million times, or written by another program. Everything that
is read from it passes through `read_bytes`, `parse`, `lines` and `Fields`; all of them raise ControllerError only.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from .errors import ControllerError

MOST_BYTES = 1 << 30
"""Largest file that is read whole."""
MOST_LINE = 1 << 26
"""Longest line of a file of JSON lines, in bytes."""
MOST_DEPTH = 32
"""Deepest nesting of brackets; files of ours have at most 6."""
MOST_DIGITS = 32
"""Longest whole number, in digits; larger ones cost quadratic time and mean nothing here."""

# A string that doesn't end is one match up to the end, so that nothing is searched twice.
_BRACKETS = re.compile(rb'"(?:[^"\\]|\\.|\\\Z)*(?:"|\Z)|[\[\]{}]', re.DOTALL)
_SURROGATE = re.compile("[\ud800-\udfff]")
_UTF8_MARK = b"\xef\xbb\xbf"

T = TypeVar("T")


def read_bytes(path: str | Path, what: str, most: int = MOST_BYTES) -> bytes:
    """The content of a file.

    Args:
        path: The file.
        what: What it should be, for the error, e.g. "a cost curve".
        most: Largest size in bytes.

    Raises:
        ControllerError: It isn't there, can't be read, is no file, or is larger.
    """
    place = Path(path)
    try:
        if not place.is_file():
            raise ControllerError(f"{str(path)!r} is no file; give {what}")
        with place.open("rb") as file:
            data = file.read(most + 1)
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL in it
        raise ControllerError(f"{str(path)!r} can't be read: {_reason(error)}") from None
    if len(data) > most:
        raise ControllerError(f"{str(path)!r} is larger than {most:,} bytes; that is no {what.removeprefix('a ')}")
    return data


def file_name(path: str | Path) -> str:
    r"""The last part of a path as text that can be written into a file; bytes that are no UTF-8 are escaped.

    >>> file_name("texts/caf\udce9.txt")
    'caf\\xe9.txt'
    """
    return os.fsencode(Path(path).name).decode("utf-8", "backslashreplace")


def parse(data: bytes | str, where: str) -> Any:
    """The value that a JSON text stands for; NaN, infinities and lone surrogates are refused.

    Args:
        data: The text, as UTF-8 if it is bytes.
        where: Where it stands, for the error: "line 3 of 'a.jsonl'".

    Raises:
        ControllerError: It is no JSON, nested too deeply, or not UTF-8.

    >>> parse('{"a": [1, 2.5, "x"]}', "here")
    {'a': [1, 2.5, 'x']}
    """
    raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    if _depth(raw) > MOST_DEPTH:
        raise ControllerError(f"{where} is nested more than {MOST_DEPTH} brackets deep; that is no file of ours")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ControllerError(f"{where} is not UTF-8 text (byte {error.start + 1}); save it as UTF-8") from None
    try:
        value = json.loads(
            text, parse_int=lambda digits: _whole(digits, where), parse_constant=lambda name: _no_number(name, where)
        )
    except json.JSONDecodeError as error:
        raise ControllerError(f"{where} is no JSON: {error.msg}, character {error.pos + 1}") from None
    if "\\ud" in text.lower() and _has_surrogate(value):
        raise ControllerError(f"{where} holds half a character (an escape such as \\ud83d alone)")
    return value


def lines(path: str | Path, what: str, *, torn_end: bool = False) -> Iterator[tuple[int, Any]]:
    """(number, value) of each line of a file of JSON lines; empty lines are passed over.

    Args:
        path: The file.
        what: What it should be, for the errors.
        torn_end: A last line without its line feed is left out, as a job that was killed leaves it.

    Raises:
        ControllerError: It can't be read, or a line is no JSON; the line is named.
    """
    for number, line in raw_lines(path, what, torn_end=torn_end):
        yield number, parse(line, f"line {number} of {str(path)!r}")


def raw_lines(path: str | Path, what: str, *, torn_end: bool = False) -> Iterator[tuple[int, bytes]]:
    """(number, bytes) of each line that isn't empty, for a reader that parses them itself.

    Only a line feed ends a line: other characters that Unicode calls line ends may stand in a text. The arguments are
    those of `lines`.

    Raises:
        ControllerError: The file can't be read, or a line is too long; the line is named.
    """
    try:
        with Path(path).open("rb") as file:
            number = 0
            while line := file.readline(MOST_LINE + 1):
                number += 1
                if len(line) > MOST_LINE:
                    raise ControllerError(f"line {number} of {str(path)!r} is longer than {MOST_LINE:,} bytes")
                if torn_end and not line.endswith(b"\n"):
                    return
                line = line.removeprefix(_UTF8_MARK) if number == 1 else line
                if line.strip():
                    yield number, line
    except (OSError, ValueError) as error:
        raise ControllerError(f"{str(path)!r} can't be read as {what}: {_reason(error)}") from None


@dataclass(frozen=True)
class Fields:
    """A JSON object whose fields are read with the type and the bounds that they must have."""

    values: dict[str, Any]
    """The object's own values, unchecked."""
    where: str
    """Where the object stands, for the errors."""

    @classmethod
    def of(cls, value: Any, where: str) -> Fields:
        """Raises ControllerError if the value is no object."""
        if not isinstance(value, dict):
            raise ControllerError(f"{where} is {_short(value)}; it must be an object with named fields")
        return cls(value, where)

    def only(self, names: Collection[str]) -> None:
        """Raises ControllerError unless the object has these fields, all and no other."""
        if self.values.keys() != set(names):
            names_shown = (name[:40] for name in sorted(set(names) ^ self.values.keys())[:8])
            different = ", ".join(name if name.isprintable() else repr(name) for name in names_shown)
            raise ControllerError(f"the fields of {self.where} differ by {different}")

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def text(self, name: str, most: int = MOST_LINE) -> str:
        """A text of at most so many characters."""
        value = self._value(name)
        if not isinstance(value, str) or len(value) > most:
            self.refuse(name, f"a text of at most {most:,} characters")
        return value

    def flag(self, name: str) -> bool:
        """true or false."""
        value = self._value(name)
        if not isinstance(value, bool):
            self.refuse(name, "true or false")
        return value

    def whole(self, name: str, low: int = 0, high: int = 1 << 53) -> int:
        """A whole number within bounds, both included."""
        value = self._value(name)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self.refuse(name, f"a whole number from {low} to {high}")
        return value

    def number(self, name: str, low: float = -math.inf, high: float = math.inf) -> float:
        """A finite number within bounds, both included."""
        value = self._value(name)
        if not _is_number(value) or not low <= value <= high:
            self.refuse(name, "a number" if math.isinf(low) and math.isinf(high) else f"a number from {low} to {high}")
        return float(value)

    def number_or_null(self, name: str, low: float = -math.inf, high: float = math.inf) -> float | None:
        """A finite number within bounds; None where the field is null. It must be there."""
        return None if self._value(name) is None else self.number(name, low, high)

    def items(self, name: str, most: int = 1 << 24) -> list[Any]:
        """A list of at most so many values."""
        value = self._value(name)
        if not isinstance(value, list) or len(value) > most:
            self.refuse(name, f"a list of at most {most:,} values")
        return value

    def numbers(self, name: str) -> list[float]:
        """A list of finite numbers."""
        value = self.items(name)
        if not all(map(_is_number, value)):
            self.refuse(name, "a list of numbers")
        return [float(one) for one in value]

    def texts(self, name: str, most: int = 4096) -> list[str]:
        """A list of at most so many texts."""
        value = self.items(name, most)
        if not all(isinstance(one, str) for one in value):
            self.refuse(name, "a list of texts")
        return value

    def inner(self, name: str) -> Fields:
        """An object of its own."""
        return Fields.of(self._value(name), f"{name!r} in {self.where}")

    def optional(self, read: Callable[[str], T], name: str) -> T | None:
        """`read(name)`; None where the field is missing or null."""
        return None if self.values.get(name) is None else read(name)

    def refuse(self, name: str, wanted: str) -> NoReturn:
        """Raises ControllerError: the value of a field, and what it must be."""
        raise ControllerError(f"{name!r} in {self.where} is {_short(self.values.get(name))}; it must be {wanted}")

    def _value(self, name: str) -> Any:
        if name not in self.values:
            raise ControllerError(f"{name!r} is missing in {self.where}")
        return self.values[name]


def _depth(data: bytes) -> int:
    """The deepest nesting of brackets outside of strings, in linear time."""
    depth = deepest = 0
    for found in _BRACKETS.finditer(data):
        mark = found.group()
        if mark in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif mark in b"]}":
            depth -= 1
    return deepest


def _whole(digits: str, where: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ControllerError(f"{where} holds a whole number of {len(digits):,} digits; at most {MOST_DIGITS} are read")
    return int(digits)


def _no_number(name: str, where: str) -> NoReturn:
    raise ControllerError(f"{where} holds {name}, which is no JSON; write null where there is no number")


def _has_surrogate(value: Any) -> bool:
    if isinstance(value, str):
        return _SURROGATE.search(value) is not None
    if isinstance(value, list):
        return any(map(_has_surrogate, value))
    if isinstance(value, dict):
        return any(_has_surrogate(key) or _has_surrogate(inner) for key, inner in value.items())
    return False


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _short(value: Any) -> str:
    """A value for an error, however large it is."""
    if isinstance(value, list):
        return f"a list of {len(value)} values"
    if isinstance(value, dict):
        return f"an object of {len(value)} fields"
    if value is None:
        return "null"
    text = repr(value[:41] if isinstance(value, str) else value)
    return text if len(text) <= 42 else f"{text[:40]}…"


def _reason(error: Exception) -> str:
    """The system's words for what it couldn't do, without its number and the path."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
