"""Which runs fit and which calibrate; streams of problems; names of the files that go with a probe."""

from __future__ import annotations

import random
from pathlib import Path


def runs_path(probe: Path) -> Path:
    """The file of the runs that a probe file was made from, next to it: P.safetensors has P.safetensors.runs.jsonl."""
    return probe.with_name(probe.name + ".runs.jsonl")


def report_path(probe: Path) -> Path:
    """The page of a probe file: P.safetensors has P.html."""
    return probe.with_suffix(".html")


def calibration_stream(seed: int) -> int:
    """The stream of problems for fitting and calibration."""
    return 2 * seed


def evaluation_stream(seed: int) -> int:
    """The stream of problems for evaluation. No seed's calibration has the same one."""
    return 2 * seed + 1


def split(n: int, seed: int) -> tuple[list[int], list[int]]:
    """Split n runs at random, half for fitting and half for calibration. One run is one problem.

    Returns:
        The indices for fitting and those for calibration, each ascending.
    """
    order = random.Random(f"split {seed}").sample(range(n), n)
    return sorted(order[: n // 2]), sorted(order[n // 2 :])
