"""A small calibration job from the command line."""

from __future__ import annotations

from pathlib import Path


def job(out: Path, n: int = 24, *more: str) -> list[str]:
    """The arguments of `ctl calibrate` for a few short runs, of which 12 fit."""
    arguments = ["calibrate", "tiny", "--tasks", "tiny", "--out", str(out), "-n", str(n), "--fit", "12"]
    return [*arguments, "--risk", "0.3", "--max-new-tokens", "200", "--workers", "1", "--json", *more]
