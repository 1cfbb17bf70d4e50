"""The tests' own order: no test imports another one, and none writes into the user's cache."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from reasonctl.controller.drafting.planning.cost_cache import cost_path
from support.source import ROOT

TESTS = ROOT / "tests"


def imported(text: str) -> Iterator[str]:
    """The dotted names that a file imports, wherever in it; leading dots are kept."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield from (f"{base}.{alias.name}" for alias in node.names)


def forbidden(names: Iterator[str]) -> list[str]:
    """The names of tests and of conftest.py among these; helpers are imported as `support.NAME`."""
    return [
        name
        for name in names
        if name.startswith((".", "tests."))
        or any(part == "conftest" or part.startswith("test_") for part in name.split("."))
    ]


def test_no_test_is_imported() -> None:
    files = sorted(TESTS.rglob("*.py"))
    found = {str(path.relative_to(TESTS)): forbidden(imported(path.read_text(encoding="utf-8"))) for path in files}
    assert len(found) > 100 and not {name: names for name, names in found.items() if names}


@pytest.mark.parametrize(
    "text",
    [
        "from test_loop import run",
        "from controller.decoding import test_loop",
        "def f():\n    import probes.test_risk",
        "from .test_loop import run",
        "from tests.support import ctl",
        "from conftest import no_users_cache",
    ],
)
def test_an_imported_test_is_seen(text: str) -> None:
    assert forbidden(imported(text))


def test_measured_costs_go_to_a_folder_of_the_session(tmp_path_factory: pytest.TempPathFactory) -> None:
    assert cost_path("any engine").is_relative_to(tmp_path_factory.getbasetemp())
    assert not cost_path("any engine").is_relative_to(Path.home() / ".cache")


def test_make_vllm_calls_its_tests_only() -> None:
    """Its environment has no llama.cpp, without which other tests of backends can't even be imported."""
    rule = re.search(r"-m vllm (tests/\S+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert rule is not None
    called = set(ROOT.glob(rule[1]))
    marked = {file for file in (ROOT / "tests").rglob("test_*.py") if "pytest.mark.vllm" in file.read_text("utf-8")}
    marked.discard(Path(__file__))
    assert marked and marked <= called
    assert not [(file.name, name) for file in called for name in imported(file.read_text("utf-8")) if "llama" in name]
