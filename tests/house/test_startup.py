"""What a command reads before it works: help reads click alone, and a run needs no library of calibration."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HELP = """
import sys
before = set(sys.modules)
from reasonctl.calibration.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    assert not end.code
print()
import json
print(json.dumps(sorted(set(sys.modules) - before)))
"""

MOST_MODULES = 160
"""The standard library's that click reads are about 100 of them."""


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["advise", "policy", "--help"]])
def test_help_reads_click_and_nothing_else(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", HELP, *arguments], capture_output=True, text=True, check=True)
    read = json.loads(done.stdout.splitlines()[-1])
    installed = {name.partition(".")[0] for name in read} - set(sys.stdlib_module_names)
    ours = [name for name in read if name.startswith("reasonctl.")]
    assert installed <= {"click", "reasonctl", "__mp_main__"}, installed
    assert all(name.startswith("reasonctl.calibration") for name in ours) and len(ours) <= 15, ours
    assert len(read) <= MOST_MODULES


BLOCKED = """
import sys
class Absent:
    names = sys.argv.pop(1).split(",")
    def find_spec(self, name, *_):
        if name in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
from reasonctl.calibration.cli.main import main
main(sys.argv[1:])
"""


def without(libraries: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line where some libraries aren't installed."""
    command = [sys.executable, "-c", BLOCKED, libraries, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


CALIBRATE = "sklearn,mapie,joblib,threadpoolctl,math_verify,reasoning_gym,matplotlib"


def test_a_run_under_a_probe_needs_llama_alone() -> None:
    done = without(f"torch,transformers,{CALIBRATE}", "run", "tiny", "--max-new-tokens", "20", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["rule"]


@pytest.mark.parametrize(
    ("libraries", "arguments", "library", "extra"),
    [
        (CALIBRATE, ["calibrate", "tiny", "--tasks", "tiny", "--out", "p.safetensors", "--dry-run"], "", "calibrate"),
        (CALIBRATE, ["replay", "runs.jsonl"], "sklearn", "calibrate"),
        ("matplotlib", ["report", "p.safetensors"], "matplotlib", "calibrate"),
        ("llama_cpp", ["run", "tiny"], "llama_cpp", "llama"),
        ("torch", ["run", "tiny", "--backend", "hf"], "torch", "hf"),
    ],
)
def test_a_missing_extra_is_one_line(libraries: str, arguments: list[str], library: str, extra: str) -> None:
    done = without(libraries, *arguments)
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert library in done.stderr and done.stderr.strip().endswith(f"pip install 'reasonctl[{extra}]'")
