"""Texts that a user gives: plain files, JSONL and collected runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from reasonctl.controller import ControllerError
from reasonctl.controller.core import Fields, lines, read_bytes


def read(paths: Sequence[str]) -> Iterator[str]:
    """The texts of files, one by one: a plain file's own, and the field `text` of each line of a .jsonl file.

    Raises:
        ControllerError: A file can't be read, is not UTF-8, or holds a line without a text.
    """
    for name in paths:
        if not name.endswith(".jsonl"):
            yield _plain(name)
            continue
        for number, value in lines(name, "texts"):
            yield Fields.of(value, f"line {number} of {name!r}").text("text")


def _plain(name: str) -> str:
    try:
        return read_bytes(name, "a text").decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ControllerError(f"{name!r} is not UTF-8 text (byte {error.start + 1}); save it as UTF-8") from None
