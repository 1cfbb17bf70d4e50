"""Texts that a user gives: plain files, JSONL and collected runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from reasonctl.controller import ControllerError


def read(paths: Sequence[str]) -> Iterator[str]:
    """The texts of files, one by one."""
    for name in paths:
        content = Path(name).read_text(encoding="utf-8")
        if not name.endswith(".jsonl"):
            yield content
            continue
        for number, line in enumerate(content.splitlines(), start=1):
            if line.strip():
                yield _text(line, f"{name}, line {number}")


def _text(line: str, where: str) -> str:
    try:
        found = json.loads(line)["text"]
    except (ValueError, KeyError, TypeError):
        raise ControllerError(f"{where}: not a JSON object with 'text'") from None
    if not isinstance(found, str):
        raise ControllerError(f"{where}: 'text' is no string")
    return found
