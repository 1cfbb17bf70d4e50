"""A trial answer: what an exit at a cue would give, tried on a fork with the policy and the keys of the exit itself."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import Any

from ..core.decode import Decode, Session, Step, common_prefix
from ..core.probability import log_prob
from ..core.trace import Finish, Trace
from ..drafting.drafter import Drafting
from ..drafting.earlier_text import EarlierText
from ..sampling.draw import Row
from ..sampling.policy import Policy, PolicyWrapper
from ..thinking.answer_end import Closing
from ..thinking.cues import Cue
from ..thinking.exit_rule import Trial
from ..thinking.span import Span
from .run import Decoding, RunSettings
from .transcript import Start, Transcript

DecodeLoop = Callable[[RunSettings, Session, Span, Start], Decoding]


@dataclass(frozen=True)
class Exit:
    """An exit at a cue."""

    cue: Cue
    """The cue at which it is made."""
    first: int
    """Absolute index: the tokens from here on go."""
    forced: list[int]
    """Tokens that take their place."""
    closing: Closing
    """What they were made from, and what ends the answer after them."""


class Trials:
    """Tries exits of one run. The trials of a boundary share one fork, and each drafts from the answer before it."""

    def __init__(self, decode: DecodeLoop, settings: RunSettings, text: Transcript) -> None:
        """Prepare for a run.

        Args:
            decode: The loop itself. It is passed in, since the loop uses the trials.
            settings: What the run consults; trials are counted in its trace.
            text: The run's text.
        """
        self._decode = decode
        self._settings = settings
        self._text = text
        self._fork: Session | None = None
        """The fork of this boundary. None: nothing was tried at it yet."""
        self._held: list[int] = []
        """Tokens in the fork's cache."""
        self._last: tuple[int, ...] = ()
        """The last trial's answer, at this boundary or at an earlier one."""

    def attempt(self, exit_here: Exit, longest: int) -> Generator[Decode, Step, Trial]:
        """Sample at most `longest` answer tokens after an exit; their cost goes to the run's trace."""
        settings, forced = self._settings, exit_here.forced
        start = self._start(exit_here)
        if len(start.tokens) >= settings.limit:
            return Trial((), (), settings.tokenizer.decode(forced), 0, complete=False)
        policy, trace = LogprobRecorder(settings.policy), Trace()
        trial = self._settings_of(exit_here, start, policy, trace, longest)
        span = Span(settings.tokenizer, settings.thinking.markers if settings.thinking else None, None)
        span.close(len(start.tokens))
        fork = self._rolled_back(start)
        answering = _Answering(fork)
        try:
            finish = yield from answering.run(self._decode(trial, fork, span, start))
            self._held = start.tokens[: fork.length]
        finally:
            settings.trace.charge(trace, len(forced), answering.rows)
        answer = self._last = tuple(answering.tokens)
        return Trial(
            answer,
            tuple(policy.logprobs),
            settings.tokenizer.decode([token for token in [*forced, *answer] if token not in settings.eos]),
            len(forced) + len(answer),
            finish == "stop",
            answering.forwards,
            answering.rows,
        )

    def close(self) -> None:
        """The boundary is over: its fork is given back."""
        if self._fork is not None:
            self._fork.close()
        self._fork = None

    def _start(self, exit_here: Exit) -> Start:
        """The text at which the answer begins; nothing of it is pending yet."""
        first = exit_here.first
        return Start(self._text.tokens[:first] + exit_here.forced, [], self._text.state_before(first), closer="exit")

    def _rolled_back(self, start: Start) -> Session:
        """The boundary's fork with what it has in common with a text in its cache; the rest becomes pending."""
        shared = self._shared(start)
        if self._fork is not None and shared < self._fork.least:
            self.close()  # what an earlier trial fed can't be taken back that far
        if self._fork is None:
            # A fork must not see rows that aren't committed. This ends the walk over the draft.
            self._text.commit()
            self._fork = self._text.session.fork()
            self._held = self._text.tokens[: self._fork.length]
            shared = self._shared(start)
        self._fork.rollback(self._fork.length - shared)
        start.pending.extend(start.tokens[shared:])
        return self._fork

    def _shared(self, start: Start) -> int:
        """Tokens of a text's beginning that the fork's cache holds; the last one is always fed, for its row."""
        return min(common_prefix(self._held, start.tokens), len(start.tokens) - 1)

    def _settings_of(self, exit_here: Exit, start: Start, policy: Policy, trace: Trace, longest: int) -> RunSettings:
        """The run's settings, for a trial."""
        settings, closing = self._settings, exit_here.closing
        return replace(
            settings.bare(),
            policy=policy,
            limit=min(settings.limit, len(start.tokens) + longest),
            trace=trace,
            drafter=self._drafting(exit_here, start),
            thinking=settings.thinking and replace(settings.thinking, suffix=closing.suffix),
            answer_ends=closing.answer_ends,
        )

    def _drafting(self, exit_here: Exit, start: Start) -> Drafting | None:
        """Drafts from the last answer, if there is one and the cache takes drafts."""
        if not self._last or not self._text.session.can.branches:
            return None
        return EarlierText(exit_here.forced, self._last, len(start.tokens))


class _Answering:
    """A trial on its way to its end: the tokens that it shows, and what its fork is fed for them."""

    def __init__(self, fork: Session) -> None:
        self.fork = fork
        self.tokens: list[int] = []
        self.forwards = 0
        self.rows = 0

    def run(self, trial: Decoding) -> Generator[Decode, Step, Finish | None]:
        """Run a trial to its end; returns why it ended."""
        step: Step | None = None
        try:
            while True:
                item = trial.send(step)
                if isinstance(item, Decode):
                    self._count(item)
                    step = yield item
                else:
                    self.tokens.append(item.token)
                    step = None
        except StopIteration as end:
            finish: Finish | None = end.value
            return finish
        finally:
            trial.close()

    def _count(self, request: Decode) -> None:
        if request.session is self.fork:  # a policy may keep sequences of its own
            self.forwards += 1
            self.rows += len(request.pending) + len(request.draft)


class LogprobRecorder(PolicyWrapper):
    """A policy that also records each token's log-probability under the model, in the order in which they are drawn."""

    def __init__(self, policy: Policy) -> None:
        super().__init__(policy)
        self.logprobs: list[float] = []

    def step(self, state: Any, row: Row) -> tuple[Any, int]:
        state, token = self.inner.step(state, row)
        self.logprobs.append(log_prob(row.logits, token))
        return state, token
