"""Renders any chat template in another process, bounded in time, memory and length.

`sandbox.py` sets the bounds. A process can be ended at any moment, from any thread. A thread can't be ended, and a step
counter inside jinja2 would not stop `'x' * 10**9`. Starting the process takes about a fifth of a second.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import ControllerError
from ..core.forked import ForkedCalls
from ..core.json_text import Fields, parse

MOST_SECONDS = 60
"""Wall time of all renderings of a template: the last resort, for what no processor time bounds."""
_SCRIPT = Path(__file__).with_name("sandbox.py")


@dataclass(frozen=True)
class Rendered:
    """The renderings of one template."""

    texts: tuple[str | None, ...]
    """One for each set of variables; None where the template failed, or was stopped earlier."""
    error: str
    """The first thing that went wrong, in one line; empty if nothing did."""


def render(template: str, variables: Sequence[dict[str, Any]]) -> Rendered:
    """Render a template under each set of variables. A template that fails gives None, never an exception.

    Args:
        template: The template's source.
        variables: What the template is given, as plain JSON values.
    """
    request = json.dumps({"template": template, "variables": list(variables)})
    try:
        # -P: the script's folder is no place to import from.
        done = subprocess.run(
            [sys.executable, "-P", str(_SCRIPT)],
            input=request.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=MOST_SECONDS,
            check=False,
        )
        output, status = done.stdout, done.returncode
    except subprocess.TimeoutExpired as stopped:
        output, status = stopped.stdout or b"", None
    except OSError as error:
        return Rendered((None,) * len(variables), f"no process can be started to render it: {error.strerror}")
    texts, errors = list[str | None](), list[str]()
    for line in output.splitlines(keepends=True):
        if line.endswith(b"\n"):
            _read(line, texts, errors)
    if status != 0:
        errors.insert(0, "it takes too much time or memory")
    texts += [None] * (len(variables) - len(texts))
    return Rendered(tuple(texts), errors[0] if errors else "")


class TemplateRenderer:
    """One template, rendered again and again with what others send: each time in a bounded process of its own."""

    def __init__(self, template: str) -> None:
        """Nothing is started before the first rendering.

        Args:
            template: The template's source.
        """
        self._template = template
        self._calls = ForkedCalls("reasonctl.controller.thinking.render_forked")

    def render(self, variables: Mapping[str, Any]) -> str:
        """The template under these variables, which are plain JSON values.

        Raises:
            ControllerError: The template refuses them, or reached a bound.
        """
        answer = self._calls.call({"template": self._template, "variables": dict(variables)})
        text = answer.get("text")
        if not isinstance(text, str):
            raise ControllerError(f"the chat template can't render these messages: {answer.get('error')}")
        return text

    def close(self) -> None:
        """End the helper process."""
        self._calls.close()


def _read(line: bytes, texts: list[str | None], errors: list[str]) -> None:
    """Read one answer of the script. A text that holds half a character counts as an error of the template."""
    try:
        answer = Fields.of(parse(line, "what the template writes"), "what the template writes")
        text = answer.text("text") if "text" in answer else None
        error = answer.text("error") if "error" in answer else ""
    except ControllerError as refused:
        text, error = None, str(refused)
    texts.append(text)
    if error:
        errors.append(error)
