"""Several calls that make one turn, such as those around tool calls, under one budget."""

from __future__ import annotations


class Turn:
    """One turn of a conversation: give the same object to each of its calls, and the budget goes on from call to call.

    Calls of one turn run one after another. A call that fails counts nothing.

    >>> turn = Turn()
    >>> turn.thinking_tokens
    0
    """

    def __init__(self) -> None:
        self.thinking_tokens = 0
        """Thinking tokens of its calls so far."""
