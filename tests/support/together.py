"""Many loops under one scheduler, as most tests want them: added in order, and read to their ends."""

from __future__ import annotations

from collections.abc import Sequence

from reasonctl.controller import Emitted, Ended, Scheduler
from reasonctl.controller.decoding.run import Decoding


def together(loops: Sequence[Decoding]) -> list[list[int]]:
    """The tokens of each loop; raises what one of them failed with."""
    scheduler, tokens = Scheduler(), [list[int]() for _ in loops]
    for i, loop in enumerate(loops):
        scheduler.add(i, loop)
    for output in scheduler:
        match output:
            case Emitted(key, event):
                tokens[key].append(event.token)
            case Ended(_, None):
                pass
            case Ended(_, error):
                raise error
    return tokens
