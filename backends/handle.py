"""What `attach` gives back: the traces of the last call, and the way to give the model back.

Owns no model; a backend tells it how to restore one and reports its runs to it. Owns the keywords that an attached
model's calls take beyond the library's own.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import Any

from reasonctl.controller import Controller, Thinking, Trace
from reasonctl.controller.thinking.chat_template import exit_suffix, find_markers

ASKED = ("risk", "thinking_budget", "min_thinking", "continue_times")
"""Keywords of one call under a controller; None = as the controller is set."""


class Handle:
    """An attached controller; as a context manager it detaches at the end of the block.

    traces: one Trace per row of the last call. runs: runs that the controlled loop has started since attach.
    custom_generate: for `model.generate(..., custom_generate=handle.custom_generate)`; None on llama.cpp.

    >>> given_back = []
    >>> with Handle(Controller(), restore=lambda: given_back.append("model")) as handle:
    ...     handle.begin()
    ...     handle.add(Trace(seed=7))
    >>> handle.detach()
    >>> given_back, handle.trace.seed, handle.runs
    (['model'], 7, 1)
    """

    def __init__(self, controller: Controller, restore: Callable[[], None]) -> None:
        self.controller = controller
        self.traces: list[Trace] = []
        self.runs = 0
        self.custom_generate: Callable[..., Any] | None = None
        self._restore: Callable[[], None] | None = restore

    @property
    def trace(self) -> Trace | None:
        """The last run's record; None before the first run."""
        return self.traces[-1] if self.traces else None

    def begin(self) -> None:
        """A call starts: the traces of the call before it are dropped."""
        self.traces = []

    def add(self, trace: Trace) -> None:
        """A run starts; its trace fills while it runs."""
        self.traces.append(trace)
        self.runs += 1

    def detach(self) -> None:
        """Give the model back as it was; a second call does nothing."""
        restore, self._restore = self._restore, None
        if restore is not None:
            restore()

    @property
    def attached(self) -> bool:
        """False once detached."""
        return self._restore is not None

    def __enter__(self) -> Handle:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.detach()


def check_parts(controller: Controller, model: Any) -> None:
    """Compare what was made for a model with the one it gets: an error for another model, warnings for differences."""
    about_rule = [] if controller.exit is None else controller.exit.check(model)
    about_policy = [] if controller.policy is None else controller.policy.check(model)
    for message in (*about_rule, *about_policy):
        warnings.warn(message, stacklevel=4)


def take_asked(named: dict[str, Any]) -> dict[str, Any]:
    """Take the keywords that are meant for the controller off a call's."""
    asked = {name: named.pop(name) for name in ASKED if name in named}
    return {name: value for name, value in asked.items() if value is not None}


def thinking_of(template: str | None) -> Thinking:
    """Markers and closing suffix as a chat template has them; without a template the whole completion is the span.

    >>> thinking_of("{{ '<think>\\n' }}").suffix
    '</think>\\n\\n'
    """
    markers = find_markers(template)
    return Thinking(markers, exit_suffix(template, markers))


def for_call(controller: Controller, thinking: Thinking | None, asked: dict[str, Any]) -> Controller:
    """The controller of one call; `thinking`, from the template, steps in where neither it nor its rule says more."""
    if controller.exit is None and controller.thinking is None:
        controller = replace(controller, thinking=thinking)
    return controller.under(**asked)
