"""Which runs fit and which calibrate; streams of problems; names of the files that go with a probe."""

from __future__ import annotations

import random
from pathlib import Path


def runs_path(probe: Path) -> Path:
    """Where the runs that a probe file was made from are saved: in its folder."""
    return probe.with_name(probe.name + ".runs.jsonl")


def report_path(probe: Path) -> Path:
    """The page of a probe file: P.safetensors has P.html."""
    return probe.with_suffix(".html")


def calibration_stream(seed: int) -> int:
    """Problems for fitting and calibration."""
    return 2 * seed


def evaluation_stream(seed: int) -> int:
    """Problems for evaluation: another stream than any seed's calibration."""
    return 2 * seed + 1


def split(n: int, seed: int) -> tuple[list[int], list[int]]:
    """Indices for fitting and for calibration, half each, by problem (one run is one problem)."""
    order = random.Random(f"split {seed}").sample(range(n), n)
    return sorted(order[: n // 2]), sorted(order[n // 2 :])
