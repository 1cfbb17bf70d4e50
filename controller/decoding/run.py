"""What one run of the loop consults: its law, its text, its limits and its record."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..core.decode import Clock, Decode, Step
from ..core.randomness import Keys
from ..core.tokenizer import Tokenizer
from ..core.trace import Event, Trace
from ..drafting.drafter import Drafting
from ..sampling.policy import Policy, finish
from ..sampling.row import RunContext
from ..thinking.exit_rule import ExitRule
from ..thinking.limits import NO_LIMITS, ThinkingLimits
from ..thinking.markers import Thinking
from ..thinking.span import Span


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
    lengths: ThinkingLimits = NO_LIMITS
    shadow: bool = False
    frame: RunContext = field(default_factory=RunContext)
    span: Span = field(init=False)

    def __post_init__(self) -> None:
        thinking, rule = self.thinking, self.rule
        self.span = Span(self.tokenizer, thinking.markers if thinking else None, rule.cues if rule else None)

    def ends(self, tokens: Sequence[int]) -> bool:
        """Whether the last of `tokens` ends the run; the trace says by what."""
        if tokens[-1] in self.eos or (self.stop is not None and self.stop(tokens)):
            self.trace.finish_reason = "stop"
            return True
        if len(tokens) >= self.limit:
            self.trace.finish_reason = "length"
            return True
        return False

    def held(self, length: int, *, asked: bool, rollback: bool) -> int:
        """How many of the last of `length` tokens may still be taken back. asked: the exit rule still is."""
        span, closer = self.span, self.trace.closed_by
        held = span.held() if asked and not self.shadow else 0
        if closer == "model" or not (closer or self.lengths.any) or not rollback:
            return held
        mark = span.half_closed()
        return max(held, length - mark.first) if mark else held

    def finish(self, state: Any) -> None:
        """The run is over: the policy, with its last state, and the rule may add to its record."""
        finish(self.policy, state, self.trace)
        if self.rule is not None:
            self.rule.finish(self.trace)


Request = Generator[Decode | Event, Step | None, None]
