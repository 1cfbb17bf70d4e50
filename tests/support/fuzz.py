"""Broken inputs made from whole ones, and the check that a reader refuses each of them in one line."""

from __future__ import annotations

import copy
import json
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from reasonctl.controller import ControllerError

ODD_VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**63,
    -(2**63),
    10**30,
    0.5,
    -0.0,
    1e308,
    -1e-308,
    "",
    "x",
    "\u2028",
    "é" * 99,
    "a" * 5000,
    [],
    {},
    [[]],
    [None],
    [1, "a"],
    {"a": 1},
    [[[[[[1]]]]]],
)
ODD_TEXTS = (b"NaN", b"Infinity", b"1e999", b"9" * 5000, b"[" * 3000, b'"\\ud83d"', b"\xff\xfe", b"\x00", b"{}}", b"\n")


def write_anew(path: Path, data: bytes) -> None:
    """Write a file that may be there. It is removed first: to overwrite one takes the disk milliseconds."""
    path.unlink(missing_ok=True)
    path.write_bytes(data)


def broken_bytes(whole: bytes, n: int, seed: int) -> Iterator[bytes]:
    """Bytes flipped, cut, doubled, moved and replaced."""
    rng = random.Random(seed)
    for _ in range(n):
        data = bytearray(whole)
        for _ in range(rng.choice((1, 1, 1, 2, 5, 20))):
            kind, at = rng.randrange(6), rng.randrange(len(data) + 1)
            end = min(len(data), at + rng.choice((1, 1, 4, 16, 200)))
            if kind == 0:
                del data[at:]
            elif kind == 1:
                del data[at:end]
            elif kind == 2:
                data[at:at] = data[at:end]
            elif kind == 3:
                data[at:end] = rng.choice(ODD_TEXTS)
            elif kind == 4:
                data[at:end] = rng.randbytes(end - at)
            elif at < len(data):
                data[at] ^= 1 << rng.randrange(8)
        yield bytes(data)


def broken_json(value: Any, n: int, seed: int) -> Iterator[Any]:
    """A JSON value with some of its parts replaced, dropped, doubled or renamed."""
    rng = random.Random(seed)
    text = json.dumps(value)
    for _ in range(n):
        made = json.loads(text)
        for _ in range(rng.choice((1, 1, 2, 4))):
            made = _break(made, rng)
        yield made


def _break(value: Any, rng: random.Random) -> Any:
    places = list(_places(value))
    if not places:
        return copy.deepcopy(rng.choice(ODD_VALUES))
    holder, key = rng.choice(places)
    kind = rng.randrange(5)
    if kind <= 1:
        holder[key] = copy.deepcopy(rng.choice(ODD_VALUES))
    elif kind == 2:
        del holder[key]
    elif kind == 3 and isinstance(holder, list):
        holder.insert(key, copy.deepcopy(holder[rng.randrange(len(holder))]))
    elif kind == 3:
        holder[f"{key}x"] = holder.pop(key)
    else:
        other, there = rng.choice(places)
        if there in (other if isinstance(other, dict) else range(len(other))):
            holder[key] = json.loads(json.dumps(other[there]))
    return value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])


def refused(read: Callable[[], Any], *, seconds: float = 2.0, most: int = 600) -> bool:
    """Whether reading raised ControllerError. Anything else that it raises is a fault, and so is a long message."""
    start = time.monotonic()
    try:
        read()
    except ControllerError as error:
        assert "\n" not in str(error) and len(str(error)) <= most, str(error)[:900]
        return True
    finally:
        assert time.monotonic() - start < seconds
    return False
