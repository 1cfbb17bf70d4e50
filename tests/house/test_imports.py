"""Imports point one way: controller <- backends, probes <- calibration <- examples."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = next(folder for folder in Path(__file__).parents if (folder / "pyproject.toml").is_file())
MAY_IMPORT = {
    "controller": set(),
    "backends": {"controller"},
    "probes": {"controller"},
    "calibration": {"controller", "backends", "probes"},
}
FORBIDDEN = {
    "controller": {"torch", "transformers", "llama_cpp", "xgrammar", "sklearn", "mapie"},
    "probes": {"torch", "transformers", "llama_cpp", "sklearn", "mapie", "pickle", "joblib"},
}
MOST_LINES = 400


def imports(path: Path, package: tuple[str, ...]) -> set[str]:
    """What a file imports, as dotted names below `reasonctl` or of other libraries; `package` holds the file.

    Relative imports are made absolute: `..probes.x` in `("calibration",)` is `reasonctl.probes.x`.
    """
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package[: len(package) - (node.level - 1)]
                base = ".".join(("reasonctl", *above, *([base] if base else [])))
            found.add(base)
            # `from . import x` may name a module.
            found |= {f"{base}.{alias.name}" for alias in node.names if base.startswith("reasonctl")}
    return found


def tops(names: set[str]) -> set[str]:
    """The packages of ours, and the libraries, that dotted names belong to."""
    parts = [name.split(".") for name in names]
    return {part[1] if part[0] == "reasonctl" and len(part) > 1 else part[0] for part in parts}


FILES = [path for package in MAY_IMPORT for path in sorted((ROOT / package).rglob("*.py"))]


def where(path: Path) -> tuple[str, ...]:
    return path.relative_to(ROOT).parts[:-1]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_direction(path: Path) -> None:
    package = where(path)[0]
    names = tops(imports(path, where(path)))
    assert not (names & set(MAY_IMPORT)) - MAY_IMPORT[package] - {package}
    assert not names & FORBIDDEN.get(package, set())
    assert "examples" not in names and "tests" not in names


def test_every_folder_is_seen() -> None:
    assert {where(path)[0] for path in FILES} == set(MAY_IMPORT)
    assert len(FILES) > 130


def test_the_check_sees_a_wrong_import(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        "from ..calibration.fit import fit\nimport torch.nn\nfrom reasonctl.backends import toy\nfrom . import near\n"
    )
    assert tops(imports(wrong, ("probes",))) == {"calibration", "torch", "backends", "probes"}
    wrong.write_text("from ...calibration.fit import fit_probe\n")
    assert tops(imports(wrong, ("probes", "risk"))) == {"calibration"}


def test_no_file_grows_too_long() -> None:
    long = {str(path): n for path in FILES if (n := len(path.read_text().splitlines())) > MOST_LINES}
    assert not long
