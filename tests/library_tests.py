"""llama-cpp-python's own tests, in stock and with every Llama attached.

    python tests/library_tests.py [--folder FOLDER]

They are those of the pinned release's source distribution, which pip fetches once. Local models stand for the ones
that the tests download. All that pass in stock must pass attached, but the one that compares draws of the same seed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

from support.library_conftest import HOME

WANTED = ("tests/", "vendor/llama.cpp/models/ggml-vocab-llama-spm.gguf")
"""Of the source distribution."""

SEEDS = "test_real_llama"
"""Compares draws of the same seed, and an attached model draws by keys of its own."""

NEEDED = ("smollm2.gguf", "qwen2.5-coder-0.5b.gguf")
CONFTEST = Path(__file__).parent / "support/library_conftest.py"


class Unavailable(Exception):
    """The tests can't be run here; says why."""


def fetched(folder: Path) -> Path:
    """The folder with the pinned release's tests. Raises Unavailable without network or models."""
    lacks = [name for name in NEEDED if not (HOME / name).exists()]
    if lacks:
        raise Unavailable(f"{', '.join(lacks)} isn't in {HOME}; ctl fetch downloads it")
    if not (folder / "tests").exists():
        _unpack(_download(folder), folder)
    shutil.copy(CONFTEST, folder / "conftest.py")
    return folder


def _download(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    release = f"llama-cpp-python=={version('llama-cpp-python')}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:"]
    wanted = f"llama_cpp_python-{version('llama-cpp-python')}.tar.gz"
    if not (folder / wanted).exists():
        made = subprocess.run([*command, "-d", str(folder), release], capture_output=True, text=True, timeout=900)
    if not (folder / wanted).exists():
        last = (made.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise Unavailable(f"pip couldn't download the source of {release}: {last[:200]}")
    return folder / wanted


def _unpack(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as tar:
        for member in tar:
            inside = member.name.partition("/")[2]
            if member.isfile() and inside.startswith(WANTED):
                member.name = inside
                tar.extract(member, folder, filter="data")


def outcomes(folder: Path, attached: bool) -> dict[str, str]:
    """By test, "passed", "failed" or "skipped"."""
    report = folder / "report.xml"
    report.unlink(missing_ok=True)
    here = Path(__file__).parent
    paths = os.pathsep.join([str(here), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"REASONCTL_ATTACH": str(int(attached)), "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder)]
    command += [f"--junit-xml={report}", str(folder / "tests")]
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=3600)
    if not report.exists():
        raise Unavailable(f"pytest wrote no report: {ran.stdout[-300:]} {ran.stderr[-300:]}")
    print("attached:" if attached else "stock:", *ran.stdout.strip().splitlines()[-2:], sep="\n  ")
    found = {}
    for case in ElementTree.parse(report).iter("testcase"):
        kinds = {child.tag for child in case}
        bad = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        found[f"{case.get('classname')}::{case.get('name')}"] = bad
    return found


def broken(stock: dict[str, str], attached: dict[str, str]) -> list[str]:
    """Tests that pass in stock and don't attached, but for the one of seeds."""
    passed = [name for name, outcome in stock.items() if outcome == "passed"]
    return [name for name in passed if attached.get(name) != "passed" and not name.endswith(f"::{SEEDS}")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "llama-cpp-python-tests")
    try:
        folder = fetched(parser.parse_args().folder)
        stock, attached = (outcomes(folder, one) for one in (False, True))
    except Unavailable as reason:
        sys.exit(str(reason))
    for name, outcome in stock.items():
        if not outcome == attached.get(name) == "passed":
            print(f"{name}: {outcome} in stock, {attached.get(name)} attached")
    sys.exit(bool(broken(stock, attached)))


if __name__ == "__main__":
    main()
