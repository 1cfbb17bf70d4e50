"""A trial answer: what an exit at a cue would give, tried on a fork with the policy and the keys of the exit itself."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Any

import numpy as np

from ..core.decode import Decode, Session, Step
from ..core.trace import Trace
from ..sampling.policy import Policy, asks, end, layers_of, prepared
from ..sampling.row import Row
from ..thinking.exit_rule import Trial
from ..thinking.limits import NO_LIMITS
from ..thinking.span import Span
from .run import Decoding, RunSettings
from .thinking_control import Exit, TryExit
from .transcript import Start, Transcript

DecodeLoop = Callable[[RunSettings, Session, Span, Start], Decoding]


def trial_with(decode: DecodeLoop) -> TryExit:
    """How an exit is tried: by `decode`, the loop itself, on a fork."""

    def try_exit(
        settings: RunSettings, text: Transcript, exit_here: Exit, longest: int
    ) -> Generator[Decode, Step, Trial]:
        """At most `longest` answer tokens; their cost goes to the run's trace."""
        first, forced = exit_here.cue.first, exit_here.forced
        tokens = text.tokens[:first] + forced
        policy = LogprobRecorder(settings.policy)
        trace = Trace()
        trial = replace(
            settings,
            policy=policy,
            limit=min(settings.limit, len(tokens) + longest),
            trace=trace,
            drafter=None,
            clock=None,
            rule=None,
            stop=None,
            limits=NO_LIMITS,
        )
        span = Span(settings.tokenizer, settings.thinking.markers if settings.thinking else None, None)
        span.close(len(tokens))
        start = Start(tokens, list(forced), text.state_before(first), closer="exit")
        fork = text.session.fork()
        try:
            fork.rollback(len(text.tokens) - 1 - first)
            answer = yield from _answer(decode(trial, fork, span, start))
        finally:
            fork.close()
            settings.trace.charge(trace, len(forced))
        shown = settings.tokenizer.decode([token for token in [*forced, *answer] if token not in settings.eos])
        return Trial(tuple(answer), tuple(policy.logprobs), shown, len(forced) + len(answer))

    return try_exit


def _answer(trial: Decoding) -> Generator[Decode, Step, list[int]]:
    """Run a trial to its end; the tokens that it shows."""
    answer: list[int] = []
    step: Step | None = None
    try:
        while True:
            item = trial.send(step)
            if isinstance(item, Decode):
                step = yield item
            else:
                answer.append(item.token)
                step = None
    except StopIteration:
        return answer
    finally:
        trial.close()


class LogprobRecorder:
    """A policy that also notes how probable the model itself found each token (a trial drafts nothing, so in order)."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.asks = asks(policy)
        self.logprobs: list[float] = []

    def start(self) -> Any:
        return self._policy.start()

    def prepare(self, state: Any, row: Row) -> Generator[Decode, Step, Any]:
        return (yield from prepared(self._policy, state, row))

    def layers(self, depth: int) -> tuple[int, ...]:
        return layers_of((self._policy,), depth)

    def end(self, state: Any) -> None:
        end(self._policy, state)

    def step(self, state: Any, row: Row) -> tuple[Any, int]:
        state, token = self._policy.step(state, row)
        logits = row.logits.astype(np.float64)
        top = logits.max()
        self.logprobs.append(float(logits[token] - top - np.log(np.exp(logits - top).sum())))
        return state, token
