"""Who answers a loop's Decodes: `answer` makes a forward, and `drive` runs one loop. `scheduler.py` runs many."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence

from ..core.decode import ROOT, Decode, Step
from ..core.trace import Event
from .run import Decoding


def answer(requests: Sequence[Decode]) -> Sequence[Step]:
    """Run one forward of one engine.

    Only a request that has the forward to itself gets a time. It ends when the first row is read, as a device may
    still work until then.
    """
    engine, clock = requests[0].session.engine, requests[0].clock
    for request in requests:
        if request.clock is not None:
            request.clock.seconds = None
            request.clock.sharing = len(requests)
    if len(requests) > 1:
        return engine.forward(requests)
    if clock is None:
        return engine.forward(requests)
    start = time.perf_counter()
    steps = engine.forward(requests)
    steps[0].logits(ROOT)
    clock.seconds = time.perf_counter() - start
    return steps


def drive(request: Decoding) -> Generator[Event, None, None]:
    """Run one loop; each Decode is one forward."""
    try:
        item = next(request)
        while True:
            if not isinstance(item, Decode):
                yield item
                item = request.send(None)
                continue
            try:
                (reply,) = answer((item,))
            except Exception as error:  # noqa: BLE001 - raised again by the run
                item = request.throw(error)  # the run learns that it failed: a closed one was stopped by its reader
            else:
                item = request.send(reply)
    except StopIteration:
        return
    finally:
        request.close()
