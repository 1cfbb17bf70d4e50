"""Text of others on a terminal: nothing in it moves the cursor, and no character of it ends a command."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 but for tab and new line, DEL, C1
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # what turns the direction of writing
    "\u2028\u2029"  # separators that some terminals break lines at
    "\ud800-\udfff]"  # bytes that were no UTF-8
)
CLOSED = 1
"""Exit code where the reader of the output has gone."""


def visible(text: str) -> str:
    r"""The text with every control character written out.

    >>> print(visible("a\x1b[2Jb\r\nc\rd \u202e \udcff"))
    a\x1b[2Jb
    c\rd \u202e \udcff
    """
    return _UNSEEN.sub(lambda found: found.group().encode("unicode_escape").decode(), text.replace("\r\n", "\n"))


def one_line(text: str) -> str:
    r"""The text with new lines written out too: a mistake is one line whatever it quotes.

    >>> print(one_line("no such file: 'a\nb'"))
    no such file: 'a\nb'
    """
    return visible(text).replace("\n", "\\n")


@contextmanager
def lenient_output() -> Iterator[None]:
    """Write out what the terminal's encoding lacks, and end quietly where the reader of the output has gone."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        _drop_output()
        sys.exit(CLOSED)


def _drop_output() -> None:
    """Python writes what is left in its buffers when it ends: to nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())


def utf8(_: click.Context, param: click.Parameter, text: str | None) -> str | None:
    """An argument that a model reads; bytes that are no UTF-8 are refused."""
    broken = next((character for character in text or "" if "\ud800" <= character <= "\udfff"), None)
    if broken is not None:
        what = f"byte 0x{ord(broken) - 0xDC00:02x}" if broken >= "\udc80" else "a lone surrogate"
        raise click.BadParameter(f"{text!r} holds {what}, which is no UTF-8; give text in UTF-8", param=param)
    return text
