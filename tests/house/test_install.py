"""What is uploaded is whole, and what is installed from it works where there is no repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.metadata import parse_email
from packaging.requirements import Requirement

from support.source import PACKAGES, ROOT

pytestmark = pytest.mark.slow
"""Building takes a minute, and the demo two."""
NOT_UPLOADED = (".github", ".ci", ".gitignore", ".pre-commit-config.yaml")
"""What a repository needs and a source archive doesn't."""


def kept() -> list[str]:
    """The files of the repository, whether or not they are committed."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [name for name in listed if (ROOT / name).is_file() and not name.startswith(NOT_UPLOADED)]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that is made of it."""
    source, dist = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in kept():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(dist), str(source)]
    subprocess.run(build, check=True, capture_output=True, timeout=1800)
    return dist


def one(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


def test_the_sdist_is_the_repository(built: Path) -> None:
    with tarfile.open(one(built, "*.tar.gz")) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    made = {name for name in names if name in ("PKG-INFO", "setup.cfg") or ".egg-info/" in name}
    assert names - made == set(kept())


def test_the_wheel_is_the_packages(built: Path) -> None:
    with zipfile.ZipFile(one(built, "*.whl")) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        entry = archive.read(next(name for name in archive.namelist() if name.endswith("entry_points.txt"))).decode()
    packages = {f"reasonctl/{name}" for name in kept() if name.partition("/")[0] in PACKAGES}
    assert names == packages | {name for name in kept() if name.startswith("reasonctl/")}
    for part in ("backends/tiny/tiny.gguf", "backends/tiny_probe/tiny.probe.safetensors", "controller/py.typed"):
        assert f"reasonctl/{part}" in names
    assert any(name.endswith(".html.jinja") for name in names) and "ctl = reasonctl.calibration.cli.main:main" in entry


def test_an_index_would_take_it(built: Path) -> None:
    files = [str(path) for path in sorted(built.iterdir())]
    done = subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *files], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("PASSED") == 2, done.stdout


def test_the_extra_all_is_what_is_installed_here(built: Path) -> None:
    """So what the tests run with is what `pip install "reasonctl[all]"` brings."""
    with zipfile.ZipFile(one(built, "*.whl")) as archive:
        raw, _ = parse_email(archive.read(next(name for name in archive.namelist() if name.endswith("METADATA"))))
    asked = [Requirement(text) for text in raw["requires_dist"]]
    wanted, extras = [one for one in asked if one.marker is None], {"all"}
    while True:
        new = [one for one in asked if one.marker and any(one.marker.evaluate({"extra": name}) for name in extras)]
        nested = {extra for one in new if one.name == "reasonctl" for extra in one.extras}
        if nested <= extras:
            break
        extras |= nested
    wanted += [one for one in new if one.name != "reasonctl"]
    assert len({one.name for one in wanted}) > 20 and {"hf", "llama", "serve", "calibrate"} <= extras
    assert all(one.specifier.contains(version(one.name), prereleases=True) for one in wanted)


def test_a_clean_environment_runs_the_demo(built: Path, tmp_path: Path) -> None:
    """Its own site-packages hold reasonctl alone; the libraries are those of this environment."""
    home = tmp_path / "clean"
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    site = Path(
        subprocess.run(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    )
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(one(built, "*.whl"))], check=True, timeout=600)
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")  # read last, as it is
    hidden = ("PYTHONPATH", "VIRTUAL_ENV")
    env = {name: text for name, text in os.environ.items() if name not in hidden}
    where = [python, "-c", "import reasonctl.calibration as c; print(c.__file__)"]
    found = subprocess.run(where, cwd=tmp_path, env=env, capture_output=True, text=True, check=True).stdout
    assert Path(found.strip()).is_relative_to(site), found
    demo = [home / "bin" / "ctl", "demo", "-n", "40"]
    done = subprocess.run(demo, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "40 problems" in done.stdout and "promised: harm in at most 5.0 % of runs" in done.stdout, done.stdout[
        -2000:
    ]
