"""The documents as a site: every page is in its navigation, and it builds without a warning and without a network."""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import reasonctl
from support.source import ROOT

DOCS = ROOT / "docs"


class Loader(yaml.SafeLoader):
    """mkdocs.yml may name Python objects, which are passed over here."""


Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)
SETTINGS: dict[str, Any] = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)  # noqa: S506


def pages(nav: list[Any]) -> list[str]:
    """The files that a navigation names, in its order."""
    found = []
    for entry in nav:
        for inner in entry.values():
            found += pages(inner) if isinstance(inner, list) else [inner]
    return found


def test_every_page_is_in_the_navigation_once_and_the_log_does_not_fill_it() -> None:
    named = pages(SETTINGS["nav"])
    assert sorted(named) == sorted([*(path.name for path in DOCS.glob("*.md")), "log/README.md"])
    assert "exclude: true" in (DOCS / "log" / ".meta.yml").read_text(encoding="utf-8"), "nor the search"


def test_the_reference_has_every_public_name() -> None:
    named = re.findall(r"^::: (\S+)$", (DOCS / "reference.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert {name.rpartition(".")[2] for name in named} >= set(reasonctl.__all__) - {"__version__"}


def test_the_front_page_leads_to_every_other() -> None:
    linked = set(re.findall(r"\]\(([\w/-]+\.md)", (DOCS / "index.md").read_text(encoding="utf-8")))
    assert linked == set(pages(SETTINGS["nav"])) - {"index.md"}


def test_the_plain_words_are_plain() -> None:
    """A person who knows no statistics is not met with its words."""
    text = (DOCS / "plain-words.md").read_text(encoding="utf-8").lower()
    words = ("binomial", "conformal", "hypothesis", "p-value", "distribution", "quantile", "interval", "estimator")
    assert [word for word in words if word in text] == [] and "harmed" in text


@pytest.mark.slow
def test_it_builds_without_a_warning_and_asks_no_network(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}  # about the theme's successor, printed at every build
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr[-3000:]
    for name in pages(SETTINGS["nav"]):
        page = tmp_path / (name.replace("README", "index").removesuffix(".md") + ".html")
        asked = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(https?:[^"]+)"', page.read_text(encoding="utf-8"))
        assert asked == [], (name, asked)
    assert "load_exit" in (tmp_path / "reference.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["plain-words.md", "choose-a-risk.md"])
def test_the_numbers_of_a_page_are_computed(name: str) -> None:
    text = (DOCS / name).read_text(encoding="utf-8")
    examples = [text for text in re.findall(r"^```python\n(.*?)^```$", text, flags=re.M | re.S) if ">>> " in text]
    names: dict[str, Any] = {}
    for i, example in enumerate(examples):
        test = doctest.DocTestParser().get_doctest(example, names, f"{name} {i}", None, None)
        assert doctest.DocTestRunner().run(test).failed == 0
    assert examples
