"""Finds models whose `generate` never comes to the library's loop: a controller would do nothing there, silently."""

from __future__ import annotations

import inspect
from typing import Any

from transformers.generation import GenerationMixin

from reasonctl.controller import ControllerError


def check_generate(model: Any) -> None:
    """Raises ControllerError for a model whose `generate` is its own and runs another loop or another model's.

    One that calls the library's `generate` or `_sample` is controlled: it prepares the call, or works on its result.
    """
    base = type(model)
    if base.generate is GenerationMixin.generate:
        return
    names = inspect.unwrap(base.generate).__code__.co_names  # what its code refers to, by name
    if "super" in names or "_sample" in names:
        return
    inner = [
        name
        for name, child in model.named_children()
        if name in names and isinstance(child, GenerationMixin) and not name.startswith("_")
    ]
    if inner:
        raise ControllerError(
            f"{base.__name__}.generate runs the generate of its {inner[0]}, which a controller of the whole model "
            f"never sees; attach(model.{inner[0]}, ...) controls the calls that reach it"
        )
    raise ControllerError(
        f"{base.__name__}.generate is its own and runs no loop of the library's, so nothing of it could be controlled"
    )


def check_reached(reached: bool, base: type[Any]) -> None:
    """Raises ControllerError where a call has ended and never came to the library's loop."""
    if not reached:
        raise ControllerError(
            f"this call of {base.__name__}.generate ran a loop of its own, and nothing of it was controlled; leave out "
            "what asks for that loop, or detach first"
        )
