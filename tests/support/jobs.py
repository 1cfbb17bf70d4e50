"""A small calibration job from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from reasonctl.calibration.cli.main import main


def job(out: Path, n: int = 24, *more: str) -> list[str]:
    """The arguments of `ctl calibrate` for a few short runs, of which 12 fit."""
    arguments = ["calibrate", "tiny", "--tasks", "tiny", "--out", str(out), "-n", str(n), "--fit", "12"]
    return [*arguments, "--risk", "0.3", "--max-new-tokens", "200", "--workers", "1", "--json", *more]


def finished(out: Path, n: int = 24, *more: str) -> Path:
    """The probe file of such a job, which was run."""
    with pytest.raises(SystemExit) as ended:
        main(job(out, n, *more))
    assert not ended.value.code
    return out
