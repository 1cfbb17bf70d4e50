"""Renders a chat template in a process of its own. Run as a script by `rendering`; nothing imports it but tests.

A chat template is a program that came with a model file. jinja2's sandbox keeps it from Python's objects; it bounds
neither time nor memory (nested loops, `'x' * 10**9`, strings that double). The operating system bounds both here.
Environment, filters and globals are those of transformers and llama-cpp-python, so that a template renders as in use.

One JSON object is read from standard input: {"template": text, "variables": [{name: value}, ...]}. One JSON object a
line is written for each rendering, {"text": text} or {"error": one line}, as soon as it is there.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import jinja2
import jinja2.ext
from jinja2 import nodes
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

MOST_CHARACTERS = 1 << 20
"""Longest text of one rendering, and of all renderings together four times as much."""
MOST_MEMORY = 1 << 30
"""Bytes of address space; not enforced by every macOS, where time is the bound."""
SECONDS = 1.0
"""Processor time of one rendering; the first that takes longer is the last."""
MOST_SECONDS = 5
"""Processor time of the process; the operating system ends it then, wherever it is."""


TEMPLATE_ERRORS = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    SyntaxError,
    TypeError,
    ValueError,
)
"""What a wrong template raises while it is compiled or rendered; after anything else the process ends."""


class TooMuch(BaseException):
    """A bound was reached; no template can catch it."""


class Generation(jinja2.ext.Extension):
    """`{% generation %}`, with which templates mark what the model wrote: its body is rendered as it stands."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def environment() -> ImmutableSandboxedEnvironment:
    """The environment in which transformers and llama-cpp-python render chat templates."""
    # Without the optimiser nothing is computed while a template is compiled.
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, optimized=False, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    made.filters["tojson"] = _to_json
    made.filters["from_json"] = json.loads
    made.globals["raise_exception"] = _refuse
    made.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return made


def bounded(pieces: Iterator[str], most: int) -> str:
    """The pieces as one text; stops taking them once there are more than `most` characters."""
    taken, length = [], 0
    for piece in pieces:
        length += len(piece)
        if length > most:
            raise TooMuch(f"it writes more than {most} characters")
        taken.append(piece)
    return "".join(taken)


def one_line(error: BaseException) -> str:
    """What went wrong, as one short line; a template may have written it, so control characters are escaped."""
    lines = str(error).strip().splitlines()
    line = (lines[0] if lines else type(error).__name__)[:200]
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def main() -> None:
    """Read the request, render, write; stops at the first rendering that reaches a bound."""
    request = json.load(sys.stdin)
    _limit()
    answers = sys.stdout
    try:
        template = environment().from_string(request["template"])
    except TEMPLATE_ERRORS as error:
        _write(answers, {"error": one_line(error)})
        return
    left = 4 * MOST_CHARACTERS
    for variables in request["variables"]:
        signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
        try:
            text = bounded(template.generate(variables), min(MOST_CHARACTERS, left))
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        except TooMuch as bound:
            _write(answers, {"error": one_line(bound)})
            return
        except TEMPLATE_ERRORS as error:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            _write(answers, {"error": one_line(error)})
            continue
        left -= len(text)
        _write(answers, {"text": text})


def _limit() -> None:
    """Bound this process: memory, processor time, and no files."""
    bounds = ((resource.RLIMIT_AS, MOST_MEMORY), (resource.RLIMIT_CPU, MOST_SECONDS), (resource.RLIMIT_FSIZE, 0))
    for kind, most in bounds:
        try:
            resource.setrlimit(kind, (most, most))
        except (ValueError, OSError):
            continue  # a system that knows no such bound, or a lower one in force
    signal.signal(signal.SIGVTALRM, over_time)


def over_time(number: int, frame: object) -> None:
    raise TooMuch(f"it takes more than {SECONDS:g} s of processor time")


def _write(answers: Any, answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    """JSON as the libraries write it, without HTML's escapes."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


if __name__ == "__main__":
    main()
