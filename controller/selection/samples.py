"""Samples of one prompt, as who reads them sees them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

from ..core.trace import Trace
from .choices import AnswerClasses, Choice, vote
from .early_stop import StopRule


@dataclass(frozen=True)
class Votes:
    """How samples vote, and when the vote is over."""

    answer: Callable[[Trace], str]
    """What a sample states; "" for no answer."""
    classes: AnswerClasses
    """Sorts the answers."""
    stop: StopRule | None
    """When no more samples are drawn. None: after the last one."""


class Samples:
    """Samples of one prompt under way: iterate over them for the trace of each, in their order, as it ends."""

    traces: Sequence[Trace]
    """The trace of every sample, of those that didn't end too."""
    answers: list[str]
    """What the samples that ended state, in their order; "" for no answer."""

    def __init__(self, traces: Sequence[Trace], ended: Generator[int, None, None], votes: Votes) -> None:
        self.traces = traces
        self.answers = []
        self._ended = ended
        self._votes = votes

    def __iter__(self) -> Iterator[Trace]:
        return self

    def __next__(self) -> Trace:
        trace, votes = self.traces[next(self._ended)], self._votes
        self.answers.append(votes.answer(trace))
        votes.classes.add(self.answers[-1])
        if votes.stop is not None and votes.stop.stops(self.classes, len(self.traces)):
            self.close()
        return trace

    def __enter__(self) -> Samples:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the samples that are running, and start no more."""
        self._ended.close()

    @property
    def classes(self) -> list[int | None]:
        """The class of each answer so far, see `AnswerClasses`."""
        return self._votes.classes.labels

    @property
    def vote(self) -> Choice | None:
        """The vote of the samples that ended; None if none of them states an answer."""
        return vote(self.classes)

    @property
    def cost(self) -> int:
        """Tokens of all samples so far, of those that were stopped too; see `Trace.cost`."""
        return sum(trace.cost for trace in self.traces)
