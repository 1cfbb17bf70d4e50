"""A request from outside a run: close thinking now, and answer."""

from __future__ import annotations


class AnswerNow:
    """One run's way to be asked for its answer, from any thread or from a signal's handler.

    It takes no lock: only the run writes `thinking`, and only who asks writes `asked`.

    >>> now = AnswerNow()
    >>> now.ask(), now.asked
    (False, False)
    >>> now.thinking = True
    >>> now.ask(), now.asked
    (True, True)
    """

    def __init__(self) -> None:
        self.thinking = False
        """The run is under way and its thinking is open."""
        self.asked = False
        """Thinking shall close at the next token."""

    def ask(self) -> bool:
        """Close thinking at the run's next token. False: it isn't open, and nothing changes."""
        if not self.thinking:
            return False
        self.asked = True
        return True
