"""Finds thinking that goes round in a loop: one span, written again and again in a row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SHORTEST = 20
"""Fewest tokens of a repeated span. A shorter one counts once some of its copies are as long together."""
LONGEST = 1024
"""Most tokens of a repeated span."""


class Repeats:
    """Follows a text and says when its end is one span, so many times in a row.

    For every distance it counts for how many tokens each has been the one at that distance before it. That is one
    vector operation per token, and memory for `LONGEST` tokens, however long the text is.

    >>> repeats = Repeats(times=3, begin=0)
    >>> repeats.follow([*range(25)] * 3), Repeats(times=3, begin=0).follow([*range(25)] * 2)
    (25, None)
    """

    def __init__(self, times: int, begin: int) -> None:
        """Follow a text.

        Args:
            times: How often a span stands in a row, at least 2.
            begin: Index of the first token that counts.
        """
        self._spans = np.arange(SHORTEST, LONGEST + 1)
        self._needed = (times - 1) * self._spans
        self._times = times
        self._begin = begin
        self._read = begin
        """Index of the first token that wasn't read yet."""
        self._last = np.full(LONGEST, -1, dtype=np.int64)
        """The last tokens, the newest first; -1: there were none."""
        self._runs = np.zeros(len(self._spans), dtype=np.int64)
        """For each length of a span: how many last tokens equal the one at this distance before them."""

    def follow(self, tokens: Sequence[int]) -> int | None:
        """Read the tokens that are new in a text; the length of the span that its end repeats, or None."""
        for token in tokens[self._read :]:
            self._runs += 1
            self._runs *= self._last[SHORTEST - 1 :] == token
            self._last[1:] = self._last[:-1]
            self._last[0] = token
        self._read = max(self._read, len(tokens))
        found = np.flatnonzero(self._runs >= self._needed)
        return int(self._spans[found[0]]) if len(found) else None

    def rewound(self, tokens: Sequence[int]) -> Repeats:
        """The same for a text whose end was taken back: what its last tokens repeat is counted anew."""
        anew = Repeats(self._times, max(self._begin, len(tokens) - self._times * LONGEST))
        anew.follow(tokens)
        anew._begin = self._begin
        return anew
