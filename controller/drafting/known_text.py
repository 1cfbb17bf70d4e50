"""Drafts from the very text that the run is going to write: a run is read instead of decoded, in few forwards."""

from __future__ import annotations

from collections.abc import Sequence

from ..core.decode import Asking, Draft
from .drafter import Drafter, Drafting, Target

MOST = 32
"""Drafted tokens of a forward. A trial drops the rest of its draft, so that longer drafts cost more than they save."""


class KnownText(Drafter):
    """Proposes a run's own tokens, for a policy that writes them (`sampling/replay.py`)."""

    def __init__(self, text: Sequence[int], most: int = MOST) -> None:
        """Prepare for one run.

        Args:
            text: The run's tokens after its prompt.
            most: Most drafted tokens of a forward.
        """
        self.text = tuple(text)
        self.most = most

    def start(self, target: Target) -> Drafting:
        return _KnownRun(self, target.context.start)


class _KnownRun(Drafting):
    """One run over the text."""

    def __init__(self, known: KnownText, prompt: int) -> None:
        self._known = known
        self._prompt = prompt

    def propose(self, tokens: Sequence[int], room: int) -> Asking[Draft]:
        """The text's next tokens, as a chain."""
        known, place = self._known, len(tokens) - self._prompt
        return Draft.chain(known.text[place : place + min(room, known.most)])
        yield  # a generator
