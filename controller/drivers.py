"""Drivers: who answers a loop's Decodes. One loop at a time, or many loops in one forward."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .decode import Decode, Step
from .loop import Request
from .trace import Event


def drive(request: Request) -> Iterator[Event]:
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
    """Run many loops; the Decodes of a round share one forward per engine.

    Yields (index of the loop, event).
    """
    replies: dict[int, Step | None] = dict.fromkeys(range(len(requests)))
    while replies:
        waiting: dict[int, Decode] = {}
        for i, reply in replies.items():
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
        engines = {id(decode.session.engine): decode.session.engine for decode in waiting.values()}
        replies = {}
        for key, engine in engines.items():
            here = [i for i, decode in waiting.items() if id(decode.session.engine) == key]
            replies |= zip(here, engine.forward([waiting[i] for i in here]), strict=True)
