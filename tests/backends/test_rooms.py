"""Who imports whom inside backends/: no circles, and the two libraries' rooms don't know each other."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import reasonctl.backends

FOLDER = Path(reasonctl.backends.__file__).parent
CHOOSERS = {"attach", "load"}
"""What picks a library; everything else in the folder is shared by both rooms, or in one of them."""


def imports() -> dict[str, set[str]]:
    """By module of backends/, the modules of backends/ that it imports anywhere in its text: in functions too."""
    files = {".".join(path.relative_to(FOLDER).with_suffix("").parts): path for path in FOLDER.rglob("*.py")}
    found = {}
    for name, path in files.items():
        room = name.split(".")[:-1]
        found[name] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                parts = [*room[: len(room) - node.level + 1], *(node.module or "").split(".")]
                target = ".".join(filter(None, parts))
                names = [target, *(f"{target}.{alias.name}".lstrip(".") for alias in node.names)]
                found[name] |= {module for module in names if module in files}
    return found


def circle(arrows: dict[str, set[str]]) -> list[str]:
    """Modules that lead back to the first of them; [] if there are none."""
    done: set[str] = set()

    def walk(module: str, path: list[str]) -> list[str]:
        if module in path:
            return path[path.index(module) :]
        if module in done:
            return []
        for target in sorted(arrows[module]):
            if found := walk(target, [*path, module]):
                return found
        done.add(module)
        return []

    for module in sorted(arrows):
        if found := walk(module, []):
            return found
    return []


def test_there_is_no_circle() -> None:
    arrows = imports()
    assert circle(arrows) == [] and len(arrows) > 25
    assert "hf.session" in arrows["hf.engine"] and "attachment" in arrows["llama.attach"]


def test_a_circle_would_be_seen() -> None:
    arrows = imports()
    arrows["hf.session"].add("hf.engine")
    assert sorted(circle(arrows)) == ["hf.engine", "hf.session"]


@pytest.mark.parametrize(("room", "other"), [("hf", "llama"), ("llama", "hf")])
def test_the_libraries_are_apart(room: str, other: str) -> None:
    for module, targets in imports().items():
        if module.startswith(f"{room}."):
            assert not {target for target in targets if target.partition(".")[0] in (other, *CHOOSERS)}, module


def test_what_both_share_knows_neither() -> None:
    for module, targets in imports().items():
        if "." not in module and module not in CHOOSERS | {"__init__"}:
            assert not {target for target in targets if target.partition(".")[0] in ("hf", "llama")}, module
