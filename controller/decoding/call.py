"""What one generate call asks of a run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..core.randomness import Keys
from ..sampling.policy import Policy
from ..thinking.answer_now import AnswerNow
from ..thinking.turn import Turn


@dataclass(frozen=True)
class Call:
    """One generate call: the prompt's tokens and what ends the run."""

    prompt: Sequence[int]
    """The prompt's tokens; at least one."""
    max_new_tokens: int
    """Most tokens after the prompt."""
    eos: frozenset[int]
    """Tokens that end the run."""
    keys: Keys
    """The run's randomness."""
    policy: Policy
    """The call's own sampling arguments. A controller's policy replaces it."""
    stop: Callable[[Sequence[int], int], bool] | None = None
    """Says after every sampled token whether the run ends: given all tokens, and the first after which none was fed."""
    repeat: bool = False
    """Another sample of a prompt that was already run in this call."""
    beyond: int = 0
    """Most tokens past `max_new_tokens`, for a reader that asks for more than the last one; the run goes on for it."""
    answer_now: AnswerNow | None = None
    """Closes the run's thinking when it is asked to, from any thread; None = nobody can ask."""
    now: Callable[[], float] = time.monotonic
    """Tells the time in seconds, for `thinking_seconds`."""
    unread: int = 0
    """Of the prompt's first tokens those that have no id, because embeddings stand in their places; any id does."""
    cut: bool = False
    """The reader may end the run at a text that the loop doesn't know, such as a stop string of the library's."""
    private: bool = False
    """Nothing of the run may be kept, for learning or else."""
    client: str = ""
    """Who asks, as a name that says nothing to others; empty where there is one user."""
    turn: Turn | None = None
    """The turn that the call belongs to: the budget counts the thinking of its earlier calls too. None = of no turn."""
    wanted: int = 0
    """What was asked for as `max_new_tokens`, where the context has no room for so many; 0 = no more than it has."""
