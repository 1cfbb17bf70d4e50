"""Packages that bring plugins, put where Python finds them, as pip would put them."""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Mapping
from pathlib import Path

EXAMPLE = Path(__file__).parent / "plugin_example"
"""A package of another author, with one plugin of each kind."""

Points = Mapping[str, Mapping[str, str]]
"""Entry points: by group, by name, `module:attribute`."""


def install(target: Path, name: str, points: Points | str, modules: Mapping[str, str] | None = None) -> Path:
    """Write a package's metadata and modules into a folder.

    Args:
        target: The folder, as `pip install --target` would fill it.
        name: The package's.
        points: Its entry points, or the whole text of the file of them.
        modules: Texts by file name.
    """
    if not isinstance(points, str):
        points = "\n".join(
            f"[{group}]\n" + "\n".join(f"{key} = {value}" for key, value in named.items())
            for group, named in points.items()
        )
    info = target / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(points, encoding="utf-8")
    for file, text in (modules or {}).items():
        (target / file).write_text(text, encoding="utf-8")
    return target


def install_example(target: Path) -> Path:
    """The example package, by what its own pyproject.toml says."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = project["entry-points"]
    install(target, project["name"], groups)
    shutil.copy(EXAMPLE / "reasonctl_example.py", target)
    return target
