"""Lists, tuples, sets and intervals as texts: their brackets and their parts."""

from __future__ import annotations

import re


def parts_of(text: str) -> tuple[str, list[str]] | None:
    """Brackets, and what they hold; None if it is a single thing.

    >>> parts_of("[1, 2)"), parts_of("1, 2 and 3"), parts_of("1,000"), parts_of("(B)"), parts_of("f(x)")
    (('[)', ['1', '2']), ('', ['1', '2', '3']), None, None, None)
    """
    text = text.strip(" .")
    kind = ""
    if len(text) > 1 and text[0] in "([{" and text[-1] in ")]}" and _closes_at_end(text):
        kind, text = text[0] + text[-1], text[1:-1]
    if re.search(r"\d,\d{3}(?!\d)", text) and not re.search(r",\s|;", text) and not kind:
        return None
    if (
        not kind
        and re.fullmatch(r"-?\d{1,9}(?: -?\d{1,9})+", text)
        and not re.fullmatch(r"-?[1-9]\d{0,2}(?: \d{3})+", text)
    ):
        return "", text.split()
    loose = re.search(r",\s|;|\band\b|\bor\b|\s&\s", text)
    split = (
        r";|,|\s(?:and|or)\s"
        if kind or not re.fullmatch(r"\D*0,\d+\D*|[^\d,]*\d+,\d+[^\d,]+|[^\d,]+\d+,\d+[^\d,]*", text)
        else r";|\s(?:and|or)\s"
    )
    if loose and not kind:
        split = r";|,\s|\s(?:and|or|&)\s"
    parts = [re.sub(r"^\s*(?:and|or)\s", "", part).strip() for part in _top_level(split, text)]
    parts = [part for part in parts if part]
    return (kind, parts) if len(parts) > 1 or kind == "{}" else None


def _closes_at_end(text: str) -> bool:
    depth = 0
    for i, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if depth == 0:
            return i == len(text) - 1
    return False


def _top_level(split: str, text: str) -> list[str]:
    """Parts between separators that no bracket encloses."""
    parts, start, depth, scanned = [], 0, 0, 0
    for separator in re.finditer(split, text):
        between = text[scanned : separator.start()]
        depth += sum(between.count(c) for c in "([{") - sum(between.count(c) for c in ")]}")
        scanned = separator.end()
        if depth == 0:
            parts.append(text[start : separator.start()])
            start = separator.end()
    return [*parts, text[start:]]


def same_brackets(gold: str, answer: str, length: int) -> bool:
    """Where only one of them has brackets, or a list is a tuple of three and more, they don't matter."""
    return gold == answer or "" in (gold, answer) or (length > 2 and {gold, answer} == {"()", "[]"})
