"""What a forward of n rows costs on this machine: measured, kept in the user's cache folder, corrected while running.

Owns times only; what to do about them is decided in `speed.py`.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any
from weakref import WeakKeyDictionary

from .decode import ROOT, Decode, Draft, Session, Step

ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
FIRST_ROWS = (1, 2, 4, 8, 16, 24)
"""Numbers of rows that are timed: by `ctl bench`, and at first use."""
BUDGET = 3.0
"""Seconds that measuring at first use may take, and the rounds it makes at most."""
ROUNDS = 5
RECENT = 9


@dataclass
class CostCurve:
    """Seconds of one forward by its number of rows, at the lengths of context where they were taken.

    >>> curve = CostCurve({100: {1: 1.0, 4: 1.6}, 300: {1: 2.0, 4: 3.2}})
    >>> curve.at(2), curve.at(4, context=200), round(curve.at(7), 6)
    (1.2, 2.4000000000000004, 2.2)
    """

    seconds: Mapping[int, Mapping[int, float]]
    _recent: dict[int, deque[float]] = field(default_factory=dict, compare=False)
    _found: dict[tuple[int, int], float] = field(default_factory=dict, compare=False)

    def at(self, rows: int, context: int = 0) -> float:
        """Interpolated between what was measured; beyond the most rows along the last slope."""
        key = rows, context if len(self.seconds) > 1 else 0
        found = self._found.get(key)
        if found is None:
            if len(self._found) > 4096:
                self._found.clear()
            found = self._found[key] = self._interpolated(rows, context)
        return found

    def _interpolated(self, rows: int, context: int) -> float:
        lengths = sorted(self.seconds)
        below = max((n for n in lengths if n <= context), default=lengths[0])
        above = min((n for n in lengths if n >= context), default=lengths[-1])
        low = _line(self.seconds[below], rows)
        if above <= below:
            return low
        return low + (context - below) / (above - below) * (_line(self.seconds[above], rows) - low)

    def note(self, rows: int, seconds: float) -> None:
        """A forward was seen to take that long."""
        self._recent.setdefault(rows, deque(maxlen=RECENT)).append(seconds)

    def now(self, rows: int, context: int = 0) -> float:
        """`at`, corrected by recent forwards: their own median where there are enough, else the drift of plain rows."""
        seen = self._recent.get(rows)
        if seen is not None and len(seen) >= 3:
            return median(seen)
        plain = self._recent.get(1)
        drift = median(plain) / self.at(1, context) if plain is not None and len(plain) >= 3 else 1.0
        return self.at(rows, context) * drift


def _line(points: Mapping[int, float], rows: int) -> float:
    """Piecewise linear through `points`."""
    known = sorted(points)
    if len(known) == 1:
        return points[known[0]]
    above = next((n for n in known if n >= rows), known[-1])
    below = max((n for n in known if n < above), default=known[0])
    if above == below:
        return points[above]
    return points[below] + (rows - below) / (above - below) * (points[above] - points[below])


def measure(
    session: Session, tokens: Sequence[int], *, rows: Sequence[int] = ROWS, rounds: int = ROUNDS, budget: float = BUDGET
) -> Generator[Decode, Step, dict[int, float]]:
    """Lower quartile of a forward's seconds by its rows (chain drafts), behind `tokens`; closes the session.

    Interleaved, one round to warm up; stops after the round in which `budget` seconds are over, two rounds at least.
    """
    yield Decode(session, tokens)
    most = max(rows) if session.can.branches else 1
    taken: dict[int, list[float]] = {n: [] for n in rows if n <= most}
    begin = time.perf_counter()
    for turn in range(rounds + 1):
        for n, seconds in taken.items():
            start = time.perf_counter()
            step = yield Decode(session, tokens[-1:], Draft.chain([tokens[i % len(tokens)] for i in range(n - 1)]))
            step.logits(ROOT)
            if turn:
                seconds.append(time.perf_counter() - start)
            session.keep([])
            session.rollback(1)
        if turn > 1 and time.perf_counter() - begin > budget:
            break
    session.close()
    # The lower quartile: another process's work only ever adds to a forward's time.
    return {n: sorted(seconds)[len(seconds) // 4] for n, seconds in taken.items()}


def known_curve(
    engine: Any, context: int, tokens: Sequence[int], session: Session
) -> Generator[Decode, Step, CostCurve]:
    """The curve of a session's engine: of this process, of the cache folder, or measured now (a few seconds).

    `tokens`: something to feed, `context` of them. The key names model, backend, threads, versions and processor.
    """
    found = _KNOWN.get(engine)
    if found is not None:
        return found
    identity = getattr(engine, "identity", None)
    path = cost_path(identity) if identity else None
    stored = load_curve(path) if path else None
    if stored is None:
        fed = (list(tokens) * (1 + context // len(tokens)))[:context]
        stored = CostCurve({len(fed): (yield from measure(session.fork(), fed, rows=FIRST_ROWS))})
        if path:
            save_curve(path, stored, identity or "")
    _KNOWN[engine] = stored
    return stored


_KNOWN: WeakKeyDictionary[Any, CostCurve] = WeakKeyDictionary()


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
