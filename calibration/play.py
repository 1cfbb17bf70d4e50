"""One run of the loop, timed. Every command and every worker plays its runs through here."""

from __future__ import annotations

import time
from collections.abc import Callable

from reasonctl.backends.model import Model
from reasonctl.controller import Call, Controller, Event, Trace


def play(
    model: Model, controller: Controller, call: Call, each: Callable[[Event], None] | None = None
) -> tuple[Trace, float]:
    """The run's trace and its wall-clock seconds, prefill included; `each` gets its tokens as they come."""
    session, trace = model.engine.session(), Trace()
    start = time.perf_counter()
    for event in controller.stream(session, model.tokenizer, call, trace):
        if each is not None:
            each(event)
    seconds = time.perf_counter() - start
    session.close()
    return trace, seconds
