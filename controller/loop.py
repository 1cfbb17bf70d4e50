"""The one decoding loop. It asks for forwards (`yield Decode`) and never makes one.

Prefill, plain steps, verified drafts, exit suffixes and trial answers are all the same request.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .decode import NO_DRAFT, ROOT, Decode, Draft, Session, Step
from .drafters import Drafting
from .exits import Boundary, ExitRule, Trial
from .policy import Policy, Row
from .randomness import Keys
from .thinking import Cue, Span, Tokenizer
from .trace import Event, Source, Trace

Request = Generator[Decode | Event, Step | None, None]


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
    rule: ExitRule | None = None
    stop: Callable[[Sequence[int]], bool] | None = None
    span: Span = field(init=False)

    def __post_init__(self) -> None:
        rule = self.rule
        self.span = Span(self.tokenizer, rule.markers if rule else None, rule.cues if rule else None)


def decode_loop(run: Run, session: Session, tokens: list[int], pending: list[int], state: Any = None) -> Request:
    """Continue `tokens` until the run is finished; yields Decodes, and Events for tokens that stay.

    `pending` are the last tokens of `tokens`, not yet in the session's cache.
    """
    try:
        yield from _Loop(run, session, tokens, pending, state).run()
    finally:
        if run.drafter is not None:
            run.drafter.close()


class _Loop:
    """The state of one loop: the walk needs too much of it to pass around."""

    def __init__(self, run: Run, session: Session, tokens: list[int], pending: list[int], state: Any) -> None:
        self.r, self.session, self.tokens, self.pending = run, session, tokens, pending
        self.start = self.shown = len(tokens)
        self.sources: list[Source] = []
        # Policy states before each generated token: an exit takes the state back with the cue.
        self.states: list[Any] = [run.policy.start() if state is None else state]
        self.rule = run.rule
        self.layers = run.rule.layers(session.can.layers) if run.rule else ()
        self.path: list[int] = []
        self.memory: list[Any] = []
        self.finished = False

    def run(self) -> Request:
        while not self.finished:
            draft = yield from self._propose()
            wanted = self.layers if self.layers and (self.r.span.at_cue or draft.tokens) else ()
            step = yield Decode(self.session, self.pending, draft, wanted)
            assert step is not None
            self.r.trace.forwards += 1
            self.pending, self.path = [], []
            accepted = yield from self._walk(step, draft)
            self.session.keep(self.path)
            if self.r.drafter is not None:
                self.r.trace.accepted += len(accepted)
                self.r.drafter.observe(draft, accepted)
            yield from self._show()

    def _propose(self) -> Generator[Decode, Step, Draft]:
        drafter, room = self.r.drafter, self.r.limit - len(self.tokens) - 1
        if drafter is None or room < 1 or self.session.can.branches < 1:
            return NO_DRAFT
        draft = yield from drafter.propose(self.tokens, room)
        if self.session.can.branches == 1 and not draft.is_chain():
            draft = draft.first_branch()
        self.r.trace.drafted += len(draft)
        return draft

    def _walk(self, step: Step, draft: Draft) -> Generator[Decode, Step, list[int]]:
        """Sample from the root down while the draft holds the sampled token; the nodes accepted."""
        run, tokens, node = self.r, self.tokens, ROOT
        accepted: list[int] = []
        while True:
            row = Row(step, node, tokens, run.span.phase, run.keys, draft.proposals.get(node))
            state, token = run.policy.step(self.states[-1], row)
            child = draft.child(node, token) if draft.tokens else None
            tokens.append(token)
            self.states.append(state)
            self.sources.append("model" if child is None else "draft")
            run.trace.cost += 1
            cue = run.span.push(token)
            self._check_finish(token)
            if cue is not None and self.rule is not None and not self.finished:
                ended = yield from self._at_cue(self.rule, cue, step, node)
                if self.pending:
                    return accepted
                child = None if ended else child
            if self.finished or child is None:
                self.pending = [token]
                return accepted
            self.path.append(child)
            accepted.append(child)
            node = child

    def _check_finish(self, token: int) -> None:
        run = self.r
        if token in run.eos or (run.stop is not None and run.stop(self.tokens)):
            self.finished, run.trace.finish_reason = True, "stop"
        elif len(self.tokens) >= run.limit:
            self.finished, run.trace.finish_reason = True, "length"

    def _at_cue(self, rule: ExitRule, cue: Cue, step: Step, node: int) -> Generator[Decode, Step, bool]:
        """Ask the rule; on exit `pending` holds the suffix. True if the walk must end here."""
        run = self.r
        if cue.index >= rule.max_cues:
            self._retire()
            return False
        forced = run.tokenizer.encode(cue.before + rule.suffix)
        if cue.first + len(forced) >= run.limit:
            run.trace.note = f"no room for the exit's {len(forced)} tokens below the limit of {run.limit}"
            self._retire()
            return False
        hidden = {layer: step.hidden(node, layer).copy() for layer in self.layers}
        if rule.trials:
            # A fork must not see rows that are not committed.
            self._commit()
        at = Boundary(
            cue, hidden, self.tokens, tuple(forced), self.start, self.session, self.memory,
            row=lambda: step.logits(node), answer=_Try(self, cue, forced),
        )  # fmt: skip
        decision = yield from rule.decide(at)
        run.trace.decisions.append(decision)
        if decision.exit:
            self._exit(cue, forced)
        return rule.trials

    def _exit(self, cue: Cue, forced: list[int]) -> None:
        self._commit()
        # The token sampled after the cue was never fed.
        self.session.rollback(len(self.tokens) - 1 - cue.first)
        del self.tokens[cue.first :], self.states[cue.first - self.start + 1 :], self.sources[cue.first - self.start :]
        self.tokens += forced
        self.states += self.states[-1:] * len(forced)
        self.sources += ["forced"] * len(forced)
        self.pending = forced
        self.r.trace.cost += len(forced)
        self.r.trace.forced = (cue.first - self.start, len(forced))
        self.r.span.close()
        self.rule, self.layers = None, ()

    def _retire(self) -> None:
        self.r.span.stop_cues()
        self.rule, self.layers = None, ()

    def _commit(self) -> None:
        self.session.keep(self.path)
        self.path = []

    def _show(self) -> Generator[Event, None, None]:
        held = self.r.span.held() if self.rule is not None and not self.finished else 0
        safe = len(self.tokens) - held
        while self.shown < safe:
            event = Event(self.tokens[self.shown], self.sources[self.shown - self.start], self.shown)
            self.r.trace.tokens.append(event.token)
            self.shown += 1
            yield event


@dataclass
class _Try:
    """Tries an exit on a fork, under the law and the keys that the exit itself would have."""

    loop: _Loop
    cue: Cue
    forced: list[int]

    def __call__(self, longest: int) -> Generator[Decode, Step, Trial]:
        """At most `longest` answer tokens; their cost goes to the run's trace."""
        loop, cue = self.loop, self.cue
        tokens = loop.tokens[: cue.first] + self.forced
        limit = min(loop.r.limit, len(tokens) + longest)
        policy = _Listening(loop.r.policy)
        run = replace(loop.r, rule=None, drafter=None, stop=None, policy=policy, limit=limit, trace=Trace())
        run.span.close()
        fork = loop.session.fork()
        fork.rollback(len(loop.tokens) - 1 - cue.first)
        request = decode_loop(run, fork, tokens, list(self.forced), loop.states[cue.first - loop.start])
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
            return self._trial(answer, policy.logprobs)
        finally:
            fork.close()
            loop.r.trace.cost += run.trace.cost + len(self.forced)
            loop.r.trace.forwards += run.trace.forwards

    def _trial(self, answer: list[int], logprobs: list[float]) -> Trial:
        run = self.loop.r
        text = run.tokenizer.decode([token for token in [*self.forced, *answer] if token not in run.eos])
        return Trial(tuple(answer), tuple(logprobs), text, len(self.forced) + len(answer))


class _Listening:
    """A policy that also notes how probable the model itself found each token (a trial drafts nothing, so in order)."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.logprobs: list[float] = []

    def start(self) -> Any:
        return self._policy.start()

    def step(self, state: Any, row: Row) -> tuple[Any, int]:
        state, token = self._policy.step(state, row)
        logits = row.logits.astype(np.float64)
        top = logits.max()
        self.logprobs.append(float(logits[token] - top - np.log(np.exp(logits - top).sum())))
        return state, token
