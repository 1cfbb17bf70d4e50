"""Samples of one prompt, as who reads them sees them."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence

from ..core.trace import Trace


class Samples:
    """Samples of one prompt under way: iterate over them for the trace of each, in their order, as it ends."""

    traces: Sequence[Trace]
    """The trace of every sample, of those that didn't end too."""

    def __init__(self, traces: Sequence[Trace], ended: Generator[int, None, None]) -> None:
        self.traces = traces
        self._ended = ended

    def __iter__(self) -> Iterator[Trace]:
        return self

    def __next__(self) -> Trace:
        return self.traces[next(self._ended)]

    def __enter__(self) -> Samples:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the samples that are running, and start no more."""
        self._ended.close()

    @property
    def cost(self) -> int:
        """Tokens of all samples so far, of those that were stopped too; see `Trace.cost`."""
        return sum(trace.cost for trace in self.traces)
