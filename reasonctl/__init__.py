"""reasonctl: early exit, sampling and drafting in one decoding loop, under your own generate calls.

Start with `from reasonctl import Controller, attach, load_exit`. A name is loaded when it is first used, so importing
the package reads neither torch nor llama.cpp.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import extend_path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reasonctl.backends import Handle, Model, attach, load_drafter, load_model
    from reasonctl.calibration.learning import audited, learn
    from reasonctl.controller import (
        Controller,
        ControllerError,
        Cues,
        Markers,
        PromptLookup,
        Sampling,
        Thinking,
        Trace,
        parse_draft,
        parse_policy,
    )
    from reasonctl.probes import AutoDeco, load_exit

    __version__: str

__path__ = extend_path(__path__, __name__)
"""In a checkout the packages are not in this folder, and the folder may hide an installed copy: both are found."""

_HOMES = {
    "reasonctl.backends": ("Handle", "Model", "attach", "load_drafter", "load_model"),
    "reasonctl.calibration.learning": ("audited", "learn"),
    "reasonctl.controller": (
        "Controller",
        "ControllerError",
        "Cues",
        "Markers",
        "PromptLookup",
        "Sampling",
        "Thinking",
        "Trace",
        "parse_draft",
        "parse_policy",
    ),
    "reasonctl.probes": ("AutoDeco", "load_exit"),
}
"""The package of each public name."""

__all__ = [
    "AutoDeco",
    "Controller",
    "ControllerError",
    "Cues",
    "Handle",
    "Markers",
    "Model",
    "PromptLookup",
    "Sampling",
    "Thinking",
    "Trace",
    "__version__",
    "attach",
    "audited",
    "learn",
    "load_drafter",
    "load_exit",
    "load_model",
    "parse_draft",
    "parse_policy",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("reasonctl")
    else:
        home = next((home for home, names in _HOMES.items() if name in names), None)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
