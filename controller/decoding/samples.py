"""Samples of one prompt: each is a run of its own, on a fork of one prefilled sequence, in shared forwards."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace

from ..core.decode import Decode, Engine, Need, Session
from ..core.errors import ControllerError
from ..core.memory import check_memory
from ..core.randomness import Keys
from .call import Call
from .drivers import answer
from .run import Decoding
from .scheduler import QueuedRun, Scheduler, ends_of

MOST_SAMPLES = 4096
"""Most samples of one prompt."""


@dataclass(frozen=True)
class SampledRun:
    """One of the samples, not started."""

    loop: Callable[[Session], Decoding]
    """Makes its run on a sequence that may hold the beginning of the prompt."""
    needs: Sequence[Need]
    """The room that it may take, its prompt included."""


def sample_calls(call: Call, n: int) -> list[Call]:
    """The calls of n samples: the first has the call's keys, the others those of the runs after it.

    Raises:
        ControllerError: n is no number of samples, or the call belongs to a turn.
    """
    if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= MOST_SAMPLES:
        raise ControllerError(f"n is {n!r}; give between 1 and {MOST_SAMPLES} samples of a prompt")
    if call.turn is not None:
        raise ControllerError("a turn is one run's, and samples are many runs; leave it out")
    keys = (Keys(seed=call.keys.seed, run=call.keys.run + i) for i in range(n))
    return [replace(call, keys=one, repeat=call.repeat or i > 0) for i, one in enumerate(keys)]


def run_samples(
    engine: Engine, prompt: Sequence[int], runs: Sequence[SampledRun], at_once: int | None
) -> Generator[int, None, None]:
    """Run samples of one prompt, which is prefilled once.

    Args:
        engine: The model's.
        prompt: The tokens that all samples continue.
        runs: The samples.
        at_once: Most samples that run at the same time; None: as many as a forward of the engine takes.

    Yields:
        The number of each sample that has ended, in order: a later one that ends first waits. Closing the generator
        cancels those that are running, and starts no more.

    Raises:
        ControllerError: there is no memory for so many at the same time.
        Exception: what the first sample that failed has failed with.
    """
    if at_once is not None and at_once < 1:
        raise ControllerError(f"at_once is {at_once}; at least 1 sample runs at a time")
    together = min(len(runs), at_once or engine.batch)
    check_memory(runs[0].needs, together)
    shared = _prefilled(engine, prompt)
    scheduler = Scheduler(held=() if shared is None else (Need(engine, shared.length),))
    queue = (_queued(i, run, engine, shared) for i, run in enumerate(runs))
    following, ended = 0, dict[object, Exception | None]()
    try:
        for output in ends_of(scheduler, queue, together):
            ended[output.key] = output.error
            while following in ended:
                if (error := ended.pop(following)) is not None:
                    raise error
                yield following
                following += 1
    finally:
        scheduler.close()
        if shared is not None:
            shared.close()


def _prefilled(engine: Engine, prompt: Sequence[int]) -> Session | None:
    """A sequence with all of the prompt but its last token; None where sequences can't be forked."""
    session = engine.session()
    if len(prompt) < 2 or not session.can.fork:
        session.close()
        return None
    try:
        answer((Decode(session, prompt[:-1]),))
    except BaseException:
        session.close()
        raise
    return session


def _queued(i: int, run: SampledRun, engine: Engine, shared: Session | None) -> QueuedRun:
    """A sample that needs no room for what it shares."""
    saved = 0 if shared is None else shared.length
    needs = [replace(need, tokens=need.tokens - saved) if need.engine is engine else need for need in run.needs]
    return QueuedRun(i, _forked(engine, run, shared), needs)


def _forked(engine: Engine, run: SampledRun, shared: Session | None) -> Decoding:
    """A sample on a sequence of its own."""
    session = engine.session() if shared is None else shared.fork()
    try:
        return (yield from run.loop(session))
    finally:
        session.close()
