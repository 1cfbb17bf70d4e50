"""A trial answer: what an exit at a cue would give, tried on a fork with the policy and the keys of the exit itself."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Any

from ..core.decode import Decode, Session, Step
from ..core.probability import log_prob
from ..core.trace import Trace
from ..sampling.draw import Row
from ..sampling.policy import Policy, PolicyWrapper
from ..thinking.exit_rule import Trial
from ..thinking.span import Span
from .close_thinking import Exit, TryExit
from .run import Decoding, RunSettings
from .transcript import Start, Transcript

DecodeLoop = Callable[[RunSettings, Session, Span, Start], Decoding]


def trial_with(decode: DecodeLoop) -> TryExit:
    """Make the function that tries an exit on a fork.

    Args:
        decode: The loop itself. It is passed in, since the loop uses the trial.
    """

    def try_exit(
        settings: RunSettings, text: Transcript, exit_here: Exit, longest: int
    ) -> Generator[Decode, Step, Trial]:
        """Sample at most `longest` answer tokens; their cost goes to the run's trace."""
        first, forced = exit_here.cue.first, exit_here.forced
        tokens = text.tokens[:first] + forced
        policy = LogprobRecorder(settings.policy)
        trace = Trace()
        trial = replace(settings.bare(), policy=policy, limit=min(settings.limit, len(tokens) + longest), trace=trace)
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
    """Run a trial to its end; returns the tokens that it shows."""
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


class LogprobRecorder(PolicyWrapper):
    """A policy that also records each token's log-probability under the model; in order, as a trial drafts nothing."""

    def __init__(self, policy: Policy) -> None:
        super().__init__(policy)
        self.logprobs: list[float] = []

    def step(self, state: Any, row: Row) -> tuple[Any, int]:
        state, token = self.inner.step(state, row)
        self.logprobs.append(log_prob(row.logits, token))
        return state, token
