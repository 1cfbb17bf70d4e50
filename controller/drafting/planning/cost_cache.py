"""Measured cost curves, kept in this process and in the user's cache folder."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import warnings
from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from weakref import WeakKeyDictionary

from ...core.decode import Asking, Engine, Need
from ...core.errors import ControllerError
from ...core.folders import cache_folder
from ...core.json_text import Fields, parse, read_bytes
from .cost import CONTEXT, FIRST_ROWS, LONGEST, SHORTEST, CostCurve, measure, rising

MOST_BYTES = 1 << 20
"""Largest file of a curve."""
MOST_CONTEXT = 1 << 30
"""Longest context that a file may name, in tokens."""
MOST_ROWS = 1 << 16
"""Most rows of a forward that a file may name."""

MEASURING = CONTEXT + max(FIRST_ROWS)
"""Tokens of cache that measuring a curve takes, on a sequence of its own."""

_BY_PATH: dict[Path, CostCurve] = {}
_BY_ENGINE: WeakKeyDictionary[Engine, CostCurve] = WeakKeyDictionary()


def known_curve(engine: Engine, tokens: Sequence[int]) -> Asking[CostCurve]:
    """An engine's curve: known to this process, read from the cache folder, or measured now (a few seconds).

    Engines of one identity share the curve and its corrections. Where the context has no room to measure, the curve
    says that no draft pays. Such a curve isn't kept, and the next run tries to measure again.

    Args:
        engine: The engine whose forwards are timed, on a sequence of their own.
        tokens: Any tokens to feed, at least one.
    """
    known = _curve_in_memory(engine)
    if known is not None:
        return known
    stored = load_curve(cost_path(engine.identity)) if engine.identity else None
    if stored is not None:
        return _remember(engine, stored)
    session = engine.session()
    if session.can.free < MEASURING:
        session.close()
        return CostCurve({0: {1: 1.0, 2: 2.0}})
    fed = (list(tokens) * (1 + CONTEXT // len(tokens)))[:CONTEXT]
    seconds = yield from measure(session, fed, rows=FIRST_ROWS)
    return keep_curve(engine, CostCurve({CONTEXT: seconds}))


def measuring(engine: Engine) -> tuple[Need, ...]:
    """The room that `known_curve` takes on an engine: none where the curve is known already."""
    known = _curve_in_memory(engine) is not None or (engine.identity != "" and cost_path(engine.identity).exists())
    return () if known else (Need(engine, MEASURING),)


def keep_curve(engine: Engine, curve: CostCurve) -> CostCurve:
    """Keep a new curve for this process and for later ones.

    Stored times at other lengths of context stay.

    Returns:
        The curve with those times too.
    """
    if engine.identity:
        path = cost_path(engine.identity)
        before = load_curve(path)
        if before is not None:
            curve = CostCurve({**before.seconds, **curve.seconds})
        save_curve(path, curve, engine.identity)
    return _remember(engine, curve)


def _curve_in_memory(engine: Engine) -> CostCurve | None:
    if engine.identity:
        return _BY_PATH.get(cost_path(engine.identity))
    return _BY_ENGINE.get(engine)


def _remember(engine: Engine, curve: CostCurve) -> CostCurve:
    if engine.identity:
        _BY_PATH[cost_path(engine.identity)] = curve
    else:
        _BY_ENGINE[engine] = curve
    return curve


def cost_path(identity: str) -> Path:
    """The file of the curve of engines with this identity, on this machine with these library versions."""
    key = hashlib.sha256("\n".join((identity, *_machine())).encode()).hexdigest()[:24]
    return cache_folder() / "costs" / f"{key}.json"


@cache
def _machine() -> tuple[str, ...]:
    """Processor, number of cores, thread limit and library versions."""
    versions = []
    for name in ("torch", "transformers", "llama-cpp-python"):
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            versions.append(f"no {name}")
    return (_processor(), str(os.cpu_count()), os.environ.get("OMP_NUM_THREADS", ""), *versions)


def _processor() -> str:
    """The processor's name as Linux gives it, else Python's."""
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def save_curve(path: Path, curve: CostCurve, identity: str) -> None:
    """Write the curve whole or not at all.

    Where the folder can't be written, nothing is kept: the next process measures again.
    """
    content = {
        "identity": identity,
        "seconds": {str(context): dict(rows) for context, rows in curve.seconds.items()},
    }
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(content), encoding="utf-8")
        part.replace(path)
    except OSError:
        return


def load_curve(path: Path) -> CostCurve | None:
    """Read a curve. One that falls anywhere is made to rise, since earlier versions wrote such files.

    Returns:
        The curve. None where there is no file, and, with a warning, where the file holds no curve: the caller measures
        again.
    """
    if not path.exists():
        return None
    try:
        return read_curve(path)
    except ControllerError as error:
        warnings.warn(f"{error}; the cost of drafting is measured anew", RuntimeWarning, stacklevel=2)
        return None


def read_curve(path: Path) -> CostCurve:
    """Read a curve.

    Raises:
        ControllerError: The file can't be read, or holds anything but a curve.
    """
    where = f"the cost curve {str(path)!r}"
    found = Fields.of(parse(read_bytes(path, "a cost curve", MOST_BYTES), where), where).inner("seconds")
    curve: dict[int, dict[int, float]] = {}
    for context in found.values:
        by_rows = found.inner(context)
        prices = {
            _count(rows, 1, MOST_ROWS, by_rows): by_rows.number(rows, SHORTEST, LONGEST) for rows in by_rows.values
        }
        if 1 not in prices:
            raise ControllerError(f"'1' is missing in {by_rows.where}; a curve says what one row costs")
        curve[_count(context, 0, MOST_CONTEXT, found)] = rising(prices)
    if not curve:
        raise ControllerError(f"{where} holds no times")
    return CostCurve(curve)


def _count(name: str, low: int, high: int, where: Fields) -> int:
    """The whole number that a field's name stands for."""
    if not (name.isascii() and name.isdecimal() and len(name) <= 12 and low <= int(name) <= high):
        raise ControllerError(f"{where.where} has a field {name!r:.40}; it must be a whole number from {low} to {high}")
    return int(name)
