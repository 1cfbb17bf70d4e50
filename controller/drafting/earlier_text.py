"""Drafts copied from one earlier text that was written after the same words, such as the answer tried before."""

from __future__ import annotations

from collections.abc import Sequence

from ..core.decode import NO_DRAFT, Asking, Draft
from .drafter import Drafting
from .prompt_lookup import PromptLookup

MOST = 8
"""Drafted tokens of a step."""
MISSES = 1
"""Drafts without an accepted token after which the texts count as different."""


class EarlierText(Drafting):
    """Continues as an earlier text did; after a difference it takes up where the last tokens stand in that text.

    It is prompt lookup in the earlier text and in what was written since. It reads the past only, so that a run that
    is drafted like this gives the tokens of a plain one.
    """

    def __init__(self, lead: Sequence[int], earlier: Sequence[int], start: int) -> None:
        """Prepare for one text.

        Args:
            lead: Tokens right before `start`; the earlier text stands for one that followed the same.
            earlier: The tokens of the earlier text.
            start: Index of the first token to be drafted.
        """
        self._lookup = PromptLookup(size=MOST)
        self._lead = list(lead)[-self._lookup.longest :]
        self._earlier = list(earlier)
        self._start = start
        self._misses = 0

    def propose(self, tokens: Sequence[int], room: int) -> Asking[Draft]:
        """The continuation in the earlier text, as a chain."""
        if self._misses >= MISSES:
            return NO_DRAFT
        text = [*self._lead, *self._earlier, *self._lead, *tokens[self._start :]]
        return (yield from self._lookup.propose(text, room))

    def observe(self, draft: Draft, accepted: Sequence[int]) -> None:
        """Count drafts of which nothing was accepted."""
        if draft.tokens and not accepted:
            self._misses += 1
