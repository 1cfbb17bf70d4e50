"""The command line, called in process."""

from __future__ import annotations

from pathlib import Path

import pytest

from reasonctl.calibration.cli.main import main


def ctl(capfd, *arguments: str) -> tuple[int, str, str]:
    """One command: its exit code, and what it wrote to stdout and stderr."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    out, err = capfd.readouterr()
    return int(ended.value.code or 0), out, err


def goes_on(capfd, job: list[str], out: Path, kept: Path, said: str, *, page: Path | None = None) -> tuple[str, bytes]:
    """A finished job loses the last line of what it kept: run again it asks for that alone, and the bytes are the same.

    Args:
        capfd: pytest's.
        job: The command.
        out: What it writes.
        kept: What it goes on with.
        said: What it says of the lines that are there.
        page: What it writes besides.

    Returns:
        What it printed to stdout, and the bytes that it wrote.
    """
    code, first, _ = ctl(capfd, *job)
    assert code == 0
    made, whole = out.read_bytes(), kept.read_bytes()
    kept.write_bytes(whole[: whole.rindex(b"\n", 0, -1) + 5])  # a torn last line
    assert ctl(capfd, *job)[0] == 2, "its result is there"
    for path in (out, *([page] if page else [])):
        path.unlink()
    code, second, err = ctl(capfd, *job)
    assert code == 0 and said in err
    assert (second, out.read_bytes(), kept.read_bytes()) == (first, made, whole)
    return first, made
