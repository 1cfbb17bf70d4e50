"""Names for how much a model shall think, such as "low": each stands for a budget, a time or a risk."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..core.errors import ControllerError
from ..core.text_form import shown
from .limits import ThinkingLimits

NONE = "none"
"""No thinking: a budget of 0, unless somebody defines it otherwise."""


@dataclass(frozen=True, kw_only=True)
class Effort:
    """What a name stands for; None leaves the controller's setting."""

    budget: int | float | None = None
    """Most thinking tokens, or a share of the run's tokens."""
    thinking_seconds: float | None = None
    """Most seconds of thinking."""
    risk: float | None = None
    """Risk of the exit rule."""

    def __post_init__(self) -> None:
        if self.budget is None and self.thinking_seconds is None and self.risk is None:
            raise ControllerError("an effort sets nothing; give it a budget, thinking_seconds or a risk")
        _ = ThinkingLimits(budget=self.budget, seconds=self.thinking_seconds)
        if self.risk is not None and not 0 < self.risk < 1:
            raise ControllerError(f"an effort's risk is {self.risk}; it must lie between 0 and 1, e.g. 0.05")

    @property
    def settings(self) -> dict[str, Any]:
        """Those that it sets, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}


Efforts = Mapping[str, int | float | Effort]
"""Efforts by name; a number is a budget."""


def effort_named(name: object, efforts: Efforts, of_rule: Efforts) -> Effort:
    """What a name stands for.

    >>> effort_named("low", {"low": 256}, {}), effort_named("none", {}, {"high": Effort(risk=0.02)}).budget
    (Effort(budget=256, thinking_seconds=None, risk=None), 0)

    Args:
        name: The name.
        efforts: The user's definitions; they come first.
        of_rule: The exit rule's definitions.

    Raises:
        ControllerError: Nobody defines the name.
    """
    defined = {NONE: 0, **of_rule, **efforts}
    if isinstance(name, str) and name in defined:
        found = defined[name]
        return found if isinstance(found, Effort) else Effort(budget=found)
    known = ", ".join(map(repr, dict.fromkeys([*efforts, *of_rule, NONE])))
    raise ControllerError(
        f"effort is {shown(name)}, and the names that are defined are {known}; give one of them, or define it among "
        "the efforts, such as low=256"
    )


_RISK = re.compile(r"risk\((.+)\)")


def parse_efforts(text: str) -> dict[str, int | float | Effort]:
    """Efforts from a text, such as one of the command line: budgets, shares, seconds and risks.

    >>> parse_efforts("low=256, medium=0.5, high=risk(0.02)")["medium"]
    0.5
    >>> parse_efforts("short=30s")["short"].thinking_seconds
    30.0

    Raises:
        ControllerError: A part of it is no effort, or an impossible one.
    """
    found: dict[str, int | float | Effort] = {}
    for part in text.split(","):
        name, is_there, value = (piece.strip() for piece in part.partition("="))
        try:
            if not name or not is_there:
                raise ValueError
            if risk := _RISK.fullmatch(value):
                found[name] = Effort(risk=float(risk[1]))
            elif value.endswith("s"):
                found[name] = Effort(thinking_seconds=float(value[:-1]))
            else:
                budget = parse_budget(value)
                _ = Effort(budget=budget)
                found[name] = budget
        except ControllerError as error:
            raise ControllerError(f"efforts define {name!r:.40} as {value!r:.40}: {error}") from None
        except ValueError:
            raise ControllerError(
                f"efforts hold {part.strip()!r:.60}; write NAME=256 (tokens), NAME=0.5 (a share), NAME=30s or "
                "NAME=risk(0.05)"
            ) from None
    return found


def parse_budget(text: str) -> int | float:
    """A budget from a text: a whole number of tokens, or a share with a point. Raises ValueError for neither."""
    return float(text) if "." in text else int(text)
