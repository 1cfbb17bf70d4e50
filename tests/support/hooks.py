"""Tests of the table of hooks: what a failure says, and that each hook has a test."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

import reasonctl.backends
from reasonctl.backends.hooks import HOOKS, MADE_FOR

_CHECKED = Counter[str]()
_BROKEN = (
    pytest.fail.Exception,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    TypeError,
    ValueError,
)
"""What a test of a hook raises where the library has changed."""


class Seen(Exception):
    """Raised by a hook, to show that it was asked."""


def checks(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A test of one hook; whatever goes wrong in it is said in the hook's words."""
    (hook,) = (hook for hook in HOOKS if hook.name == name)
    _CHECKED[name] += 1

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(test)
        def run(*args: object, **named: object) -> None:
            try:
                test(*args, **named)
            except _BROKEN as error:
                raise AssertionError(hook.broken_by(version(hook.library))) from error

        return run

    return decorate


def check_table(*libraries: str) -> None:
    """Each hook of these libraries has one test, stands in the file that the table names, and has a version."""
    assert set(libraries) <= set(MADE_FOR) == {hook.library for hook in HOOKS}
    folder = Path(reasonctl.backends.__file__).parent
    for hook in HOOKS:
        if hook.library in libraries:
            assert _CHECKED[hook.name] == 1, hook
            assert hook.name in (folder / hook.used_in).read_text(encoding="utf-8"), hook
