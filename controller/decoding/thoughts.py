"""Counts the thinking tokens of a run over all of its spans, and writes down who closed each."""

from __future__ import annotations

from ..core.trace import Closer, ThinkingSpan, Trace
from ..thinking.span import Span


class Thoughts:
    """The thinking spans of one run, and how many tokens of them count."""

    def __init__(self, trace: Trace, span: Span, start: int, *, each: bool, spent: int) -> None:
        """Follow a run.

        Args:
            trace: The run's; its spans are written.
            span: Where the run stands.
            start: Absolute index of the run's first token.
            each: Limits hold for each span by itself; else for all spans of the run together.
            spent: Thinking tokens that were spent before the run and count too.
        """
        self._spans: list[ThinkingSpan] = []
        trace.spans = self._spans
        self._span = span
        self._start = start
        self._each = each
        self._spent = spent
        """Thinking tokens that count and stand before the last span."""

    def follow(self) -> bool:
        """Note a span that opened with the last token; whether one did."""
        if self._span.opened is None or self._span.number == len(self._spans):
            return False
        if self._spans and not self._each:
            self._spent += self._spans[-1].tokens
        begin = self._span.opened - self._start
        self._spans.append(ThinkingSpan(begin, begin))
        return True

    def before(self, end: int) -> int:
        """Thinking tokens that count before token `end`, an absolute index in the last span."""
        return self._spent + end - (self._start if self._span.opened is None else self._span.opened)

    def ended(self, closer: Closer | None, end: int, forced: int = 0) -> None:
        """The last span ends before token `end`.

        Args:
            closer: Who closed it. None: it is open so far.
            end: An absolute index.
            forced: Number of tokens from there on that were fed to close it.
        """
        if self._span.opened is None:
            return
        self.follow()
        last = self._spans[-1]
        last.start, last.end = self._span.opened - self._start, end - self._start
        last.closed_by, last.forced = closer, forced

    @property
    def total(self) -> int:
        """Thinking tokens of the run."""
        return sum(span.tokens for span in self._spans)
