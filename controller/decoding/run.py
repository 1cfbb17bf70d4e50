"""What one run of the loop consults and never changes: its policy, its limits, its exit rule and its record."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..core.decode import Clock, Decode, Step
from ..core.randomness import Keys
from ..core.tokenizer import Tokenizer
from ..core.trace import Event, Finish, Trace
from ..drafting.drafter import Drafting
from ..sampling.draw import RunContext
from ..sampling.policy import Policy
from ..thinking.answer_end import AnswerEnds
from ..thinking.answer_now import AnswerNow
from ..thinking.exit_rule import AdmittedRun, ExitRule
from ..thinking.limits import NO_LIMITS, ThinkingLimits
from ..thinking.markers import Thinking
from ..thinking.turn import Turn

Decoding = Generator[Decode | Event, Step | None, Finish | None]
"""A run in progress: it yields Decodes, each answered with its Step, and Events, answered with None.

It returns why it ended.
"""


@dataclass(frozen=True)
class RunSettings:
    """Everything that one run of the loop consults."""

    policy: Policy
    """How tokens are sampled."""
    tokenizer: Tokenizer
    """The model's."""
    keys: Keys
    """The run's randomness."""
    limit: int
    """Most tokens of the run, the prompt included."""
    eos: frozenset[int]
    """Tokens that end the run."""
    trace: Trace
    """The record of the run. Decoding writes it and never reads it."""
    beyond: int = 0
    """Most tokens past the limit, for a reader that asks for more than the last one."""
    drafter: Drafting | None = None
    """The drafts of this run; None = plain decoding."""
    clock: Clock | None = None
    """Set by whoever runs a forward: how long it took."""
    rule: ExitRule | None = None
    """Decides at every cue; None = no exits."""
    stop: Callable[[Sequence[int], int], bool] | None = None
    """Asked after every sampled token whether the run ends: with all tokens, and the first after which none was fed."""
    thinking: Thinking | None = None
    """How thinking is marked and closed; None where nothing needs to know."""
    limits: ThinkingLimits = NO_LIMITS
    """How long the run may and must think."""
    answer_ends: AnswerEnds = "model"
    """What ends the answer after an exit of a trial, which has no rule; a rule says it itself."""
    shadow: bool = False
    """The exit rule decides and is recorded, and never acts."""
    answer_now: AnswerNow | None = None
    """Asked after every token whether thinking shall close; None = nobody can ask."""
    now: Callable[[], float] = time.monotonic
    """Tells the time in seconds, for a limit of thinking in seconds."""
    turn: Turn | None = None
    """Counts the thinking of several calls; None = the budget is this run's alone."""
    context: RunContext = field(default_factory=RunContext)
    """What the policy knows of the run."""
    admitted: AdmittedRun | None = None
    """What the rule may know of the run before its first forward; None: the rule decides in all runs alike."""

    def ends(self, tokens: Sequence[int], own_from: int) -> Finish | None:
        """Why the run ends with the last of `tokens`, of which none from `own_from` on was fed; None if it goes on."""
        if tokens[-1] in self.eos or (self.stop is not None and self.stop(tokens, own_from)):
            return "stop"
        return "length" if len(tokens) >= self.limit else None

    def bare(self) -> RunSettings:
        """The same without whatever may change the run or end it early: an answer that is only tried."""
        alone = replace(self, beyond=0, drafter=None, clock=None, rule=None, stop=None, answer_now=None, turn=None)
        return replace(alone, limits=self.limits.of_trial())

    @property
    def budget(self) -> int | None:
        """Most thinking tokens; None = no limit."""
        return None if self.limits.budget is None else int(self.limits.budget)

    @property
    def spent_before(self) -> int:
        """Thinking tokens of the turn's earlier calls."""
        return 0 if self.turn is None else self.turn.thinking_tokens

    def past_limit(self) -> RunSettings:
        """The settings of a run whose reader asks for more."""
        return replace(self, limit=self.limit + self.beyond, beyond=0)

    def for_run(self) -> RunSettings:
        """The settings with the rule that decides in this run."""
        if self.rule is None or self.admitted is None:
            return self
        return replace(self, rule=self.rule.for_run(self.admitted))

    def begin(self) -> None:
        """The run begins: the rule gives it its place among its runs."""
        if self.rule is not None:
            self.rule.begin(self.trace)

    def fail(self) -> None:
        """The run failed: the rule takes its place back."""
        self._leave()
        if self.rule is not None:
            self.rule.abandon(self.trace)

    def finish(self, state: Any) -> None:
        """End the run: the policy, with its last state, and the rule may add to its record.

        Where the policy fails the rule takes its place back, or the runs after it would wait for ever.
        """
        self._leave()
        ended = False
        try:
            self.policy.finish(state, self.trace)
            ended = True
        finally:
            if self.rule is not None and not ended:
                self.rule.abandon(self.trace)
        if self.rule is not None:
            self.rule.finish(self.trace)

    def _leave(self) -> None:
        """The run is over: nobody can ask it for its answer."""
        if self.answer_now is not None:
            self.answer_now.thinking = False
