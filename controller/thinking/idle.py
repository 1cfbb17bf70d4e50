"""Work that a rule does while nobody uses the model, in steps that others' runs may share forwards with."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

from ..core.decode import Need


@dataclass(frozen=True)
class IdleRun:
    """One run that the rule wants for itself."""

    loop: Generator[Any, Any, Any]
    """The run, not started: a loop as `Controller.run` gives it."""
    needs: Sequence[Need]
    """The room that it may take."""


Idle = Callable[[], IdleRun | None]
"""Gives the next one; None where there is nothing to do."""
