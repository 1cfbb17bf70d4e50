"""A trial answer: what an exit at a cue would give, tried on a fork under the law and the keys of the exit itself."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..core.decode import Decode, Session, Step
from ..core.probability import log_prob
from ..core.trace import Trace
from ..sampling.policy import Policy, PolicyWrapper
from ..sampling.row import Row
from ..thinking.cues import Cue
from ..thinking.exit_rule import Trial
from ..thinking.limits import NO_LIMITS
from .run import Run

if TYPE_CHECKING:
    from .loop import Loop
    from .run import Request


def fitting_exit(run: Run, suffix: str, cue: Cue, index: int) -> tuple[Cue, list[int]] | None:
    """The first cue of a row whose exit has room below the limit, as number `index`, with the exit's tokens.

    Each is judged by itself: what a rule may act on depends on no cue that it doesn't look at.
    """
    exits = [(one, run.tokenizer.encode(one.before + suffix)) for one in (cue, *cue.also)]
    fitting = [(one, forced) for one, forced in exits if one.first + len(forced) < run.limit]
    if not fitting:
        run.trace.note = f"no room for the exit's {len(exits[0][1])} tokens below the limit of {run.limit}"
        return None
    (first, forced), *others = fitting
    return replace(first, index=index, also=tuple(one for one, _ in others)), forced


@dataclass
class TrialAnswer:
    """Tries an exit on a fork, under the law and the keys that the exit itself would have."""

    loop: Loop
    decode: Callable[[Run, Session, list[int], list[int], Any], Request]
    cue: Cue
    forced: list[int]

    def __call__(self, longest: int, other: Cue | None = None) -> Generator[Decode, Step, Trial]:
        """At most `longest` answer tokens; their cost goes to the run's trace. other: of the same row, instead."""
        loop, cue, forced = self.loop, other or self.cue, self.forced
        if other is not None:
            assert loop.rule is not None
            forced = loop.r.tokenizer.encode(other.before + loop.rule.suffix)
        tokens = loop.tokens[: cue.first] + forced
        limit = min(loop.r.limit, len(tokens) + longest)
        policy = LogprobRecorder(loop.r.policy)
        run = replace(
            loop.r,
            rule=None,
            drafter=None,
            clock=None,
            stop=None,
            policy=policy,
            limit=limit,
            lengths=NO_LIMITS,
            trace=Trace(closed_by="exit"),
        )
        run.span.close(len(tokens))
        fork = loop.session.fork()
        fork.rollback(len(loop.tokens) - 1 - cue.first)
        request = self.decode(run, fork, tokens, list(forced), loop.states[cue.first - loop.start])
        answer: list[int] = []
        step: Step | None = None
        try:
            while True:
                item = request.send(step)
                if isinstance(item, Decode):
                    step = yield item
                else:
                    answer.append(item.token)
                    step = None
        except StopIteration:
            return self._trial(forced, answer, policy.logprobs)
        finally:
            fork.close()
            loop.r.trace.cost += run.trace.cost + len(forced)
            loop.r.trace.forwards += run.trace.forwards

    def _trial(self, forced: list[int], answer: list[int], logprobs: list[float]) -> Trial:
        run = self.loop.r
        text = run.tokenizer.decode([token for token in [*forced, *answer] if token not in run.eos])
        return Trial(tuple(answer), tuple(logprobs), text, len(forced) + len(answer))


class LogprobRecorder(PolicyWrapper):
    """A policy that also notes how probable the model itself found each token (a trial drafts nothing, so in order)."""

    def __init__(self, policy: Policy) -> None:
        super().__init__(policy)
        self.logprobs: list[float] = []

    def step(self, state: Any, row: Row) -> tuple[Any, int]:
        state, token = self.inner.step(state, row)
        self.logprobs.append(log_prob(row.logits, token))
        return state, token
