"""Drivers: who answers a loop's Decodes. One loop at a time, or many loops in one forward."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence

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
    reply: Step | None = None
    try:
        while True:
            item = request.send(reply)
            if isinstance(item, Decode):
                (reply,) = answer((item,))
            else:
                reply = None
                yield item
    except StopIteration:
        return
    finally:
        request.close()


def drive_batch(requests: Sequence[Decoding]) -> Iterator[tuple[int, Event]]:
    """Run many loops. Up to `engine.batch` Decodes of one engine share a forward, in order of arrival.

    Yields:
        (index of the loop, event).
    """
    replies: list[tuple[int, Step | None]] = [(i, None) for i in range(len(requests))]
    waiting: dict[int, Decode] = {}
    while True:
        for i, reply in replies:
            try:
                item = requests[i].send(reply)
                while not isinstance(item, Decode):
                    yield i, item
                    item = requests[i].send(None)
                waiting[i] = item
            except StopIteration:
                pass
        if not waiting:
            return
        # A loop may wait for its draft model while others wait for the target.
        engine = next(iter(waiting.values())).session.engine
        here = [i for i, decode in waiting.items() if decode.session.engine is engine]
        # Every loop reads its Step before the next forward makes it stale.
        turn = here[: engine.batch]
        steps = answer(tuple(waiting.pop(i) for i in turn))
        replies = list(zip(turn, steps, strict=True))
