"""What is installed is what is in the folders."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from reasonctl.backends.extras import LIBRARIES
from support.source import PACKAGES, ROOT, modules

SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
ROOMS = sorted(path.parent for package in PACKAGES for path in (ROOT / package).rglob("__init__.py"))


def dotted(folder: Path) -> str:
    return ".".join(("reasonctl", *folder.relative_to(ROOT).parts))


def test_every_room_is_listed() -> None:
    listed = SETTINGS["tool"]["setuptools"]["packages"]
    assert sorted(listed) == sorted(["reasonctl", *map(dotted, ROOMS)]) and len(set(listed)) == len(listed)


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


# What is installed with it

PROJECT = SETTINGS["project"]
EXTRAS = PROJECT["optional-dependencies"]
COMES_WITH = {"dask": "distributed", "markupsafe": "jinja2"}
"""Libraries that are imported and that another one of ours brings."""
APART = {"sentence_transformers": "sentence-transformers", "vllm": "vllm"}
"""Libraries that `all` and the Makefile leave out, as they are large and rarely wanted."""
ALONE = {"embedding", "vllm"}
"""Their extras."""


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[^\w.-]", requirement)[0].lower() for requirement in requirements}


@cache
def distributions() -> Mapping[str, list[str]]:
    """What is installed, by the names that it is imported as. Reading it takes a second."""
    return packages_distributions()


def distribution(library: str) -> str:
    """The name on the package index of what is imported as `library`."""
    return (COMES_WITH | APART).get(library) or distributions()[library][0].lower().replace("_", "-")


def imported() -> set[tuple[str, str]]:
    """(module of ours, library) for every import of another library."""
    found = set()
    for module in modules().values():
        found |= {(module.name, one.name.partition(".")[0]) for one in module.imports}
    return {pair for pair in found if pair[1] not in sys.stdlib_module_names and pair[1] != "reasonctl"}


def test_every_library_is_asked_for() -> None:
    wanted = {distribution(library) for _, library in imported()}
    listed = names(PROJECT["dependencies"]).union(*(names(EXTRAS[extra]) for extra in LIBRARIES))
    assert wanted <= listed
    assert listed - wanted == {"accelerate"}, "transformers reads it: it loads large models in parts"


def test_an_exit_rule_needs_no_extra() -> None:
    base = names(PROJECT["dependencies"])
    needed = {pair for pair in imported() if pair[0].startswith(("controller", "probes"))}
    apart = (
        "controller.selection.text_utilities",
        "probes.files.hub",
    )  # no rule compares texts; files come by hand too
    needed = {pair for pair in needed if pair[0] not in apart}
    assert len(needed) > 20 and {distribution(library) for _, library in needed} <= base


def test_a_missing_library_is_named_with_its_extra() -> None:
    for extra, libraries in LIBRARIES.items():
        assert {distribution(library) for library in libraries} == names(EXTRAS[extra])
    assert set(EXTRAS) == {*LIBRARIES, "all", "test", "docs"}
    assert set(re.findall(r"\w+", EXTRAS["all"][0])) == {"reasonctl", *LIBRARIES} - ALONE


def test_the_makefile_installs_all() -> None:
    """xgrammar alone comes another way."""
    found = re.search(r"-e '\.\[([\w,]+)\]'", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert found is not None and set(found[1].split(",")) == {*LIBRARIES, "test", "docs"} - {"grammar"} - ALONE
