"""Measured cost curves, kept in this process and in the user's cache folder."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Generator, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from weakref import WeakKeyDictionary

from ...core.decode import Decode, Engine, Step
from .cost import CONTEXT, FIRST_ROWS, CostCurve, measure


def known_curve(engine: Engine, tokens: Sequence[int]) -> Generator[Decode, Step, CostCurve]:
    """An engine's curve: of this process, of the cache folder, or measured now on a sequence of its own (seconds).

    `tokens`: something to feed. The key names model, backend, threads, versions and processor; engines of one key
    share what was seen. Where there is no room to measure now nothing pays, and it is measured another time.
    """
    found = _curve_in_memory(engine)
    if found is not None:
        return found
    identity = engine.identity
    stored = load_curve(cost_path(identity)) if identity else None
    if stored is not None:
        return _remember(engine, stored)
    session = engine.session()
    if session.can.free < CONTEXT + max(FIRST_ROWS):
        session.close()
        return CostCurve({0: {1: 1.0, 2: 2.0}})
    fed = (list(tokens) * (1 + CONTEXT // len(tokens)))[:CONTEXT]
    return keep_curve(engine, CostCurve({CONTEXT: (yield from measure(session, fed, rows=FIRST_ROWS))}))


def keep_curve(engine: Engine, curve: CostCurve) -> CostCurve:
    """A fresh curve for this process and for later ones; contexts that it lacks stay as they were known."""
    identity = engine.identity
    if identity:
        path = cost_path(identity)
        before = load_curve(path)
        if before is not None:
            curve = CostCurve({**before.seconds, **curve.seconds})
        save_curve(path, curve, identity)
    return _remember(engine, curve)


def _curve_in_memory(engine: Engine) -> CostCurve | None:
    identity = engine.identity
    return _BY_PATH.get(cost_path(identity)) if identity else _BY_ENGINE.get(engine)


def _remember(engine: Engine, curve: CostCurve) -> CostCurve:
    identity = engine.identity
    if identity:
        _BY_PATH[cost_path(identity)] = curve
    else:
        _BY_ENGINE[engine] = curve
    return curve


_BY_PATH: dict[Path, CostCurve] = {}
_BY_ENGINE: WeakKeyDictionary[Engine, CostCurve] = WeakKeyDictionary()


def cost_path(identity: str) -> Path:
    """Where the curve of an engine is kept."""
    key = hashlib.sha256("\n".join((identity, *_machine())).encode()).hexdigest()[:24]
    root = os.environ.get("REASONCTL_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "reasonctl"
    )
    return Path(root) / "costs" / f"{key}.json"


@cache
def _machine() -> tuple[str, ...]:
    processor = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            processor = next(
                (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), processor
            )
    versions = []
    for name in ("torch", "transformers", "llama-cpp-python"):
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            versions.append(f"no {name}")
    return (processor, str(os.cpu_count()), os.environ.get("OMP_NUM_THREADS", ""), *versions)


def save_curve(path: Path, curve: CostCurve, identity: str) -> None:
    """Write it whole or not at all; a folder that can't be written is no reason to stop."""
    content = {"identity": identity, "seconds": {str(c): dict(rows) for c, rows in curve.seconds.items()}}
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(content), encoding="utf-8")
        part.replace(path)
    except OSError:
        return


def load_curve(path: Path) -> CostCurve | None:
    """What was kept; None if nothing was or if it can't be read: then it is measured again."""
    try:
        seconds = json.loads(path.read_text(encoding="utf-8"))["seconds"]
        curve = CostCurve({int(c): {int(n): float(s) for n, s in rows.items()} for c, rows in seconds.items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    sound = curve.seconds and all(rows and min(rows.values()) > 0 for rows in curve.seconds.values())
    return curve if sound else None
