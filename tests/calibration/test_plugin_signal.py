"""A signal of another package, all the way: calibrated, in the probe file, promised, reported, and in use."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from reasonctl.backends import load_model
from reasonctl.controller import ControllerError
from reasonctl.probes import load_exit
from reasonctl.probes.files import load_probe
from support.plugins import install_example


@pytest.mark.slow
def test_a_plugins_signal_is_calibrated_and_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages = install_example(tmp_path / "packages")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(packages), os.environ.get("PYTHONPATH", "")])}
    ctl = [sys.executable, "-c", "from reasonctl.calibration.cli.main import main; main()"]
    file = tmp_path / "p.safetensors"
    job = ["--tasks", "tiny", "--out", str(file), "-n", "60", "--fit", "30", "--labels", "all", "--risk", "0.2"]
    for arguments, words in (
        (["calibrate", "tiny", *job, "--signal", "last_three"], "written"),
        (["run", "tiny", "48 a-9 b+6 c-3", "--probe", str(file), "--signal", "last_three", "--risk", "0.2"], "tokens"),
        (["inspect", str(file), "--signal", "last_three"], "last_three"),
    ):
        done = subprocess.run([*ctl, *arguments], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=1800)
        assert done.returncode == 0 and words in done.stdout, done.stdout[-1000:] + done.stderr[-1000:]
    page = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert "last_three" in page
    assert "last_three" in load_probe(file).others
    with pytest.raises(ControllerError, match="signal is 'last_three'"):
        load_exit(file, risk=0.2, signal="last_three").signal  # noqa: B018 - the plugin isn't installed here
    monkeypatch.syspath_prepend(packages)
    rule = load_exit(file, risk=0.2, signal="last_three")
    assert rule.check(load_model("tiny")) == []
    sys.modules.pop("reasonctl_example", None)
