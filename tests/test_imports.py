"""Imports point one way: controller <- backends, probes <- calibration <- examples."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "controller": set(),
    "backends": {"controller"},
    "probes": {"controller"},
    "calibration": {"controller", "backends", "probes"},
}
FORBIDDEN = {
    "controller": {"torch", "transformers", "llama_cpp", "xgrammar", "sklearn", "mapie"},
    "probes": {"torch", "transformers", "llama_cpp", "sklearn", "pickle", "joblib"},
}


def imports(path: Path) -> set[str]:
    """Names of packages that a file imports: `..probes.x` -> probes, `torch.nn` -> torch."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            if node.level == 2:
                found.add((node.module or node.names[0].name).split(".")[0])
            elif node.level == 0 and node.module:
                parts = node.module.split(".")
                found.add(parts[1] if parts[0] == "reasonctl" and len(parts) > 1 else parts[0])
    return found


FILES = [path for package in MAY_IMPORT for path in sorted((ROOT / package).glob("*.py"))]


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_direction(path: Path) -> None:
    package = path.parent.name
    names = imports(path)
    assert not (names & set(MAY_IMPORT)) - MAY_IMPORT[package] - {package}
    assert not names & FORBIDDEN.get(package, set())
    assert "examples" not in names and "tests" not in names


def test_the_check_sees_a_wrong_import(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text("from ..calibration.fit import fit_probe\nimport torch.nn\nfrom reasonctl.backends import toy\n")
    assert imports(wrong) == {"calibration", "torch", "backends"}


def test_no_file_grows_too_long() -> None:
    long = {str(path): n for path in FILES if (n := len(path.read_text().splitlines())) > 300}
    assert not long
