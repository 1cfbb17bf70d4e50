"""Logits processors of a user's call under rollbacks: which may run, and how those with a state are copied.

A processor that remembers what it was shown would remember tokens that were taken back. Each backend knows which of
its library's own processors keep no state; the others must declare it.
"""

from __future__ import annotations

import copy
import dis
import inspect
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


def copied(processor: Any, why: str, kind: str = "logits processor", shared: Sequence[Any] = ()) -> Any:
    """A copy with a state of its own: its `fork()`, or all of it but what is shared.

    Args:
        processor: a user's; itself where it keeps no state.
        why: what copies it, for the message.
        kind: what it is, for the message.
        shared: objects that stay the same in the copy, such as a model.

    Raises:
        ControllerError: it can't be copied.
    """
    if getattr(processor, "stateless", False) or (inspect.isfunction(processor) and not _keeps(processor)):
        return processor
    if forks(processor):
        return processor.fork()
    if inspect.isfunction(processor):
        check_stateless([processor], why, kind)
    try:
        return copy.deepcopy(processor, {id(one): one for one in shared})
    except (TypeError, RuntimeError, copy.Error):
        check_stateless([processor], why, kind)
        raise


def _keeps(function: Any) -> bool:
    """Whether a function may remember something between calls: it writes variables of its own, or holds containers."""
    writes = any(i.opname == "STORE_DEREF" for i in dis.get_instructions(function))
    held = (cell.cell_contents for cell in function.__closure__ or ())
    return bool(function.__closure__) and (writes or any(isinstance(one, list | dict | set) for one in held))


def _named(processor: Any) -> str:
    """The name of a function, or of an object's class."""
    return str(getattr(processor, "__name__", type(processor).__name__))
