"""Drivers: who answers a loop's Decodes. One loop at a time, or many loops in one forward."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence

from .decode import Decode, Step
from .loop import Request
from .trace import Event


def drive(request: Request) -> Generator[Event, None, None]:
    """Run one loop; each Decode is one forward."""
    reply: Step | None = None
    try:
        while True:
            item = request.send(reply)
            if isinstance(item, Decode):
                (reply,) = item.session.engine.forward((item,))
            else:
                reply = None
                yield item
    except StopIteration:
        return
    finally:
        request.close()


def drive_batch(requests: Sequence[Request]) -> Iterator[tuple[int, Event]]:
    """Run many loops; up to `engine.batch` Decodes of one engine share one forward, first come first.

    Yields (index of the loop, event).
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
        steps = engine.forward(tuple(waiting.pop(i) for i in turn))
        replies = list(zip(turn, steps, strict=True))
