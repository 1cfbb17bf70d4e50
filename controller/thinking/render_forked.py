"""Renders a chat template in forked processes. Run as a module by `rendering`; nothing imports it."""

from __future__ import annotations

import signal
from functools import lru_cache
from typing import Any

from ..core.forked import Answer, answer_forever
from .sandbox import (
    MOST_CHARACTERS,
    MOST_MEMORY,
    MOST_SECONDS,
    SECONDS,
    TEMPLATE_ERRORS,
    TooMuch,
    bounded,
    environment,
    one_line,
    over_time,
)


@lru_cache(maxsize=1)
def _compiled(template: str) -> Any:
    return environment().from_string(template)


def _render(request: Answer) -> Answer:
    signal.signal(signal.SIGVTALRM, over_time)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        text = bounded(_compiled(request["template"]).generate(request["variables"]), MOST_CHARACTERS)
    except (TooMuch, *TEMPLATE_ERRORS) as error:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        return {"error": one_line(error)}
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    return {"text": text}


if __name__ == "__main__":
    answer_forever(_render, MOST_SECONDS, MOST_MEMORY)
