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


FITTING_RUNS = 100
"""The first so many runs of a job fit, by default; all later ones calibrate. A larger job moves none of them."""


def split(n: int, seed: int) -> tuple[list[int], list[int]]:
    """How runs were split before their roles followed from their index: half each, at random.

    Returns:
        Indices for fitting and for calibration.
    """
    order = random.Random(f"split {seed}").sample(range(n), n)
    return sorted(order[: n // 2]), sorted(order[n // 2 :])
