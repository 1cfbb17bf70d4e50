"""Prints text of others on a terminal: it can't move the cursor, and no character in it makes a command fail."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

import click

_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 but for tab and new line, DEL, C1
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # what turns the direction of writing
    "\u2028\u2029"  # separators that some terminals break lines at
    "\ud800-\udfff]"  # bytes that were no UTF-8
)
CLOSED = 1
"""Exit code where the reader of the output has gone, or where it can't be written."""


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
    """Print characters that the terminal's encoding lacks as escapes, and end where the output can't be written.

    Quietly if nobody reads it; otherwise, as on a full disk, with a line that says why.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        _drop(sys.stdout, sys.stderr)
        sys.exit(CLOSED)
    except OSError:
        reason = _unwritten()
        if reason is None:
            raise
        _drop(sys.stdout)
        click.echo(f"Error: the output can't be written: {reason}", err=True)
        sys.exit(CLOSED)


def _unwritten() -> str | None:
    """Why stdout can't be written, which an empty line tells; None where it can."""
    try:
        sys.stdout.write("\n")
        sys.stdout.flush()
    except OSError as error:
        return error.strerror
    return None


def _drop(*streams: TextIO) -> None:
    """Send to nowhere what Python still writes there when it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in streams:
        os.dup2(nowhere, stream.fileno())


def utf8(_: click.Context, param: click.Parameter, text: str | None) -> str | None:
    """A click callback for text that a model reads: it refuses bytes that are no UTF-8."""
    broken = next((character for character in text or "" if "\ud800" <= character <= "\udfff"), None)
    if broken is not None:
        what = f"byte 0x{ord(broken) - 0xDC00:02x}" if broken >= "\udc80" else "a lone surrogate"
        raise click.BadParameter(f"{text!r} holds {what}, which is no UTF-8; give text in UTF-8", param=param)
    return text


def utf8_each(context: click.Context, param: click.Parameter, texts: tuple[str, ...]) -> tuple[str, ...]:
    """`utf8` for an option that may be given several times."""
    for text in texts:
        utf8(context, param, text)
    return texts
