"""docs/extending.md does what it says: its examples run, in order, in one namespace, and each is short."""

from __future__ import annotations

import doctest
import re
from collections.abc import Iterator
from typing import Any

import pytest

from reasonctl.controller.sampling.parse import STAGES
from support.source import ROOT

PAGE = ROOT / "docs" / "extending.md"
MOST_LINES = 15
OPTIONS = doctest.ELLIPSIS
PARTS = ["A stage", "A drafter", "A signal", "An exit rule", "A backend", "A command"]


def blocks(text: str) -> list[str]:
    """The Python examples of a page, in order."""
    return re.findall(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def run(text: str, names: dict[str, Any]) -> int:
    """Run one example with the names of those before it; how many of its results are not what the page says."""
    if ">>> " not in text:
        exec(compile(text, PAGE.name, "exec", dont_inherit=True), names)
        return 0
    example = doctest.DocTestParser().get_doctest(text, names, PAGE.name, str(PAGE), 0)
    example.globs = names
    return doctest.DocTestRunner(optionflags=OPTIONS).run(example, clear_globs=False).failed


@pytest.fixture
def registered() -> Iterator[None]:
    """The examples' stages leave the register again."""
    known = dict(STAGES)
    yield
    STAGES.clear()
    STAGES.update(known)


def test_the_examples_run(registered: None) -> None:
    names: dict[str, Any] = {"__name__": "extending"}
    for text in blocks(PAGE.read_text(encoding="utf-8")):
        assert run(text, names) == 0, text


def test_the_examples_are_short() -> None:
    lengths = [len(text.splitlines()) for text in blocks(PAGE.read_text(encoding="utf-8"))]
    assert max(lengths) <= MOST_LINES


def test_each_part_has_an_example() -> None:
    sections = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    assert [section.splitlines()[0] for section in sections] == PARTS
    assert all(len(blocks(section)) >= 2 for section in sections)


def test_a_wrong_result_is_seen() -> None:
    names: dict[str, Any] = {}
    run("x = 2\n", names)
    assert run(">>> x + 1\n3\n", names) == 0 and run(">>> x + 1\n4\n", names) == 1
