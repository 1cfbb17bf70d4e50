"""Pages for people: links that lead somewhere, files that exist, lines that fit, a README of a hundred lines."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from reasonctl.controller import Trace
from support.source import PACKAGES, ROOT

MOST_LINES = 100
MOST_CHARACTERS = 120
TOP = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "AGENTS.md")
PAGES = [*(ROOT / name for name in TOP), *sorted((ROOT / "docs").rglob("*.md"))]
"""The log's entries are among them."""

LINK = re.compile(r"\]\(([^)\s]+)\)")
FILE = re.compile(r"`([a-z_/]+/[a-z_0-9]+\.py)`")
ROOM = re.compile(r"^\| `([a-z_/]+?)/?` \|", flags=re.MULTILINE)


def anchor(heading: str) -> str:
    """What a heading is linked by.

    >>> anchor("## Where things belong")
    'where-things-belong'
    """
    bare = re.sub(r"[^\w\- ]", "", heading.lstrip("# ").lower())
    return bare.replace(" ", "-")


def anchors(page: Path) -> set[str]:
    return {anchor(line) for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("#")}


def broken_links(page: Path, text: str) -> list[str]:
    """Links of a page to a file or a heading that isn't there; addresses on the web aren't followed."""
    broken = []
    for link in LINK.findall(text):
        if "://" in link:
            continue
        name, _, heading = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists() or (heading and heading not in anchors(target)):
            broken.append(link)
    return broken


def missing_files(text: str) -> list[str]:
    """Python files in backquotes that are neither from the root nor in any package."""
    roots = [ROOT, *(ROOT / package for package in PACKAGES)]
    return [name for name in FILE.findall(text) if not any((root / name).is_file() for root in roots)]


def long_lines(text: str) -> list[int]:
    return [i for i, line in enumerate(text.splitlines(), start=1) if len(line) > MOST_CHARACTERS]


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= MOST_LINES


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere_and_lines_fit(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert broken_links(page, text) == [] and long_lines(text) == []


@pytest.mark.parametrize("page", [page for page in PAGES if "log" not in page.parts], ids=lambda page: page.name)
def test_named_files_exist(page: Path) -> None:
    assert missing_files(page.read_text(encoding="utf-8")) == []


def test_the_architecture_has_every_room() -> None:
    named = set(ROOM.findall((ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")))
    rooms = {path.parent.name for package in PACKAGES for path in (ROOT / package).glob("*/__init__.py")}
    assert rooms - named - {"tiny", "tiny_hybrid", "tiny_probe"} == set()


def test_the_trace_has_the_fields_that_the_page_names() -> None:
    page = (ROOT / "docs" / "thinking.md").read_text(encoding="utf-8")
    table = page.split("\n## What the Trace says\n")[1].split("\n## ")[0]
    rows = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert len(named) > 8 and set(named) <= set(dir(Trace())), named


def test_breaches_are_seen() -> None:
    readme = ROOT / "README.md"
    assert broken_links(readme, "[a](docs/no.md) [b](docs/architecture.md#no) [c](docs/architecture.md#glossary)") == [
        "docs/no.md",
        "docs/architecture.md#no",
    ]
    assert missing_files("`decoding/loop.py` `decoding/no.py`") == ["decoding/no.py"]
    assert long_lines("a\n" + "b" * 121) == [2]
