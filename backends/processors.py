"""Logits processors of a user's call under rollbacks: which may run, and how those with a state are copied.

A processor that remembers what it was shown would remember tokens that were taken back. Each backend knows which of
its library's own processors keep no state; the others must declare it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from reasonctl.controller import ControllerError


def check_stateless(processors: Sequence[Any], why: str, kind: str = "logits processor") -> None:
    """Refuse processors that may keep a state and can't be copied.

    Args:
        processors: those that the library doesn't know to be stateless.
        why: what takes tokens back in this call, for the message.
        kind: what they are, for the message.

    Raises:
        ControllerError: the first such processor, with the ways out.
    """
    for processor in processors:
        if not getattr(processor, "stateless", False) and not forks(processor):
            raise ControllerError(
                f"{kind} {_named(processor)} may keep state, which {why} would break; leave it out, "
                "set `stateless = True` on it if its output depends on its arguments only, or give it a `fork()` that "
                "returns a copy"
            )


def accepted(check: Callable[[], None]) -> bool:
    """Whether a check of processors passes: their tokens may be taken back."""
    try:
        check()
    except ControllerError:
        return False
    return True


def forks(processor: Any) -> bool:
    """Whether a processor can be copied: it has a `fork()`."""
    return callable(getattr(processor, "fork", None))


def forked(processors: Sequence[Any]) -> tuple[Any, ...]:
    """The same processors, each a copy where it can be copied."""
    return tuple(processor.fork() if forks(processor) else processor for processor in processors)


def _named(processor: Any) -> str:
    """The name of a function, or of an object's class."""
    return str(getattr(processor, "__name__", type(processor).__name__))
