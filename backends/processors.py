"""Logits processors of a user's call under rollbacks, for both libraries: who may keep state, how copies are made.

Owns the rule; which of a library's own processors are known to keep none is the backend's to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reasonctl.controller import ControllerError


def check_stateless(processors: Sequence[Any], why: str) -> None:
    """Raises ControllerError for the first processor that may remember tokens taken back, and can't be copied."""
    for processor in processors:
        if not getattr(processor, "stateless", False) and not forks(processor):
            raise ControllerError(
                f"logits processor {_named(processor)} may keep state, which {why} would break; leave it out, "
                "set `stateless = True` on it if its output depends on its arguments only, or give it a `fork()` that "
                "returns a copy"
            )


def forks(processor: Any) -> bool:
    """Whether it can be copied."""
    return callable(getattr(processor, "fork", None))


def forked(processors: Sequence[Any]) -> tuple[Any, ...]:
    """Copies of those that can be copied; the others themselves."""
    return tuple(processor.fork() if forks(processor) else processor for processor in processors)


def _named(processor: Any) -> str:
    """A function by its own name, an object by its class's."""
    return str(getattr(processor, "__name__", type(processor).__name__))
