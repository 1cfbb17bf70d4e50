"""What is installed is what is in the folders."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = next(folder for folder in Path(__file__).parents if (folder / "pyproject.toml").is_file())
PACKAGES = ("controller", "backends", "probes", "calibration")
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
ROOMS = sorted(path.parent for package in PACKAGES for path in (ROOT / package).rglob("__init__.py"))


def dotted(folder: Path) -> str:
    return ".".join(("reasonctl", *folder.relative_to(ROOT).parts))


def test_every_room_is_listed() -> None:
    listed = SETTINGS["tool"]["setuptools"]["packages"]
    assert sorted(listed) == sorted(map(dotted, ROOMS)) and len(set(listed)) == len(listed)


def test_every_folder_with_modules_is_a_room() -> None:
    folders = {path.parent for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    assert folders == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS, ids=dotted)
def test_a_room_says_what_it_is_for(room: Path) -> None:
    assert ast.get_docstring(ast.parse((room / "__init__.py").read_text(encoding="utf-8")))


def test_data_files_are_listed() -> None:
    """Every file beside the modules is package data of its room, or it would be missing from a wheel."""
    data = SETTINGS["tool"]["setuptools"]["package-data"]
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*"):
            if path.is_file() and path.suffix not in (".py", ".pyc") and path.name != "py.typed":
                patterns = data.get(dotted(path.parent), [])
                assert any(path.match(pattern) for pattern in patterns), path
