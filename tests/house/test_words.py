"""The product speaks the field's words: words of its own that it has given up don't come back.

The glossary in docs/architecture.md has the words to use instead.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

import pytest

from support.source import PACKAGES, ROOT

OWN = frozenset(
    {
        *("law", "laws", "look", "looks", "looked", "settled", "told", "beside", "behind"),
        *("judge", "judged", "judgement", "outlasting", "heard"),
    }
)
"""Words that only this project used for: distribution, observation, p_settled, message, next to, after, outcome."""

MOST: dict[str, dict[str, int]] = {
    "controller": {},
    "backends": {},
    "probes": {},
    "calibration": {
        "law": 1,
        "look": 6,
        "looked": 2,
        "judged": 3,
        "judge": 2,
        "behind": 2,
        "beside": 1,
        "settled": 1,
        "told": 1,
    },
}
"""How often a package may still use such a word; the words that aren't named: never.

`law` stays in calibration as a key of the JSON that `ctl advise draft` writes, and as a law over sizes.
"""

FIELD = re.compile(r"p_settled")
"""Names that hold one of the words and are the field's."""

WORD = re.compile(r"[A-Z]?[a-z]+")


def words(text: str) -> Iterable[str]:
    """The words of a text, those inside names too, in lower case.

    >>> list(words("def law_of(lastLook): return p_settled  # told"))
    ['def', 'law', 'of', 'last', 'look', 'return', 'told']
    """
    return (found.lower() for found in WORD.findall(FIELD.sub("", text)))


def own_words(package: str) -> Counter[str]:
    """How often a package's code and templates use each word of its own."""
    files = [path for ending in ("*.py", "*.jinja") for path in (ROOT / package).rglob(ending)]
    found = Counter(word for path in files for word in words(path.read_text(encoding="utf-8")))
    return Counter({word: found[word] for word in OWN if found[word]})


@pytest.mark.parametrize("package", PACKAGES)
def test_own_words_stay_out(package: str) -> None:
    found = {word: n for word, n in own_words(package).items() if n > MOST[package].get(word, 0)}
    assert not found, f"{package}: write these as the glossary of docs/architecture.md has them: {found}"


def test_words_inside_of_names_are_seen() -> None:
    text = "def law_of(lastLook, p_settled): return JUDGED, isBeside"
    assert [word for word in words(text) if word in OWN] == ["law", "look", "beside"]
