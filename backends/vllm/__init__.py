"""vLLM: exits at a probe's cues inside its engine, a client that makes them, and runs in batches.

vLLM loads two names from here, `Worker` and `ExitProcessor`, in its own processes. Importing the room needs no vLLM.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {"ExitProcessor": "processor", "Worker": "worker"}
"""The file of each name that vLLM loads. They subclass its classes, so that vLLM is imported with them."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .installed import check_installed

    check_installed()  # here its absence is one line, which says what to do
    return vars(import_module(f"{__name__}.{_HOMES[name]}"))[name]
