"""The README's tree is the disk's: every folder of the first level, and every room of the packages."""

from __future__ import annotations

import re

from support.source import PACKAGES, ROOT

OTHERS = {"build"}
"""Folders that are made, not kept."""


def written() -> list[str]:
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("\n## Folders\n")[1].split("\n## ")[0]
    return re.findall(r"^    (\S+)/  \S", section, flags=re.MULTILINE)


def on_disk() -> set[str]:
    top = {
        path.name
        for path in ROOT.iterdir()
        if path.is_dir() and path.name not in OTHERS and not path.name.startswith(".") and path.suffix != ".egg-info"
    }
    rooms = {f"{package}/{path.parent.name}" for package in PACKAGES for path in (ROOT / package).glob("*/__init__.py")}
    return top | rooms


def test_the_tree_is_the_disks() -> None:
    assert set(written()) == on_disk() and len(written()) == len(set(written()))


def test_packages_come_in_the_order_of_their_imports() -> None:
    assert [name for name in written() if "/" not in name][:4] == list(PACKAGES)
