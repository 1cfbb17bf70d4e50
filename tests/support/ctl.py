"""The command line, called in process."""

from __future__ import annotations

import pytest

from reasonctl.calibration.cli.main import main


def ctl(capfd, *arguments: str) -> tuple[int, str, str]:
    """One command: its exit code, and what it wrote to stdout and stderr."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    out, err = capfd.readouterr()
    return int(ended.value.code or 0), out, err
