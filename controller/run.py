"""What one run of the loop consults: its law, its text, its limits and its record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .decode import Clock
from .drafters import Drafting
from .exits import ExitRule
from .lengths import NO_LIMITS, Lengths
from .policy import Frame, Policy, finish
from .randomness import Keys
from .thinking import Span, Thinking, Tokenizer
from .trace import Trace


@dataclass
class Run:
    """Everything that one run of the loop consults. `limit` = most tokens, prompt included."""

    policy: Policy
    tokenizer: Tokenizer
    keys: Keys
    limit: int
    eos: frozenset[int]
    trace: Trace
    drafter: Drafting | None = None
    clock: Clock | None = None
    rule: ExitRule | None = None
    stop: Callable[[Sequence[int]], bool] | None = None
    thinking: Thinking | None = None
    lengths: Lengths = NO_LIMITS
    shadow: bool = False
    frame: Frame = field(default_factory=Frame)
    span: Span = field(init=False)

    def __post_init__(self) -> None:
        thinking, rule = self.thinking, self.rule
        self.span = Span(self.tokenizer, thinking.markers if thinking else None, rule.cues if rule else None)

    def finish(self, state: Any) -> None:
        """The run is over: the policy, with its last state, and the rule may add to its record."""
        finish(self.policy, state, self.trace)
        if self.rule is not None and hasattr(self.rule, "finish"):  # fixed exits learn nothing from a run
            self.rule.finish(self.trace)
