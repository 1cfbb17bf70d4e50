"""The one decoding loop. It asks for forwards (`yield Decode`) and never makes one.

Prefill, plain steps, verified drafts, exit suffixes and trial answers are all the same request.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from ..core.decode import NO_DRAFT, ROOT, Decode, Draft, Session, Step
from ..core.trace import Closer, Event, Source
from ..sampling.row import CopiedStep, Row
from ..thinking.cues import Cue
from ..thinking.exit_rule import Boundary, ExitRule
from ..thinking.span import LONGEST_CHARACTER, MarkerPosition
from .run import Request, Run
from .trial import TrialAnswer, fitting_exit


def decode_loop(run: Run, session: Session, tokens: list[int], pending: list[int], state: Any = None) -> Request:
    """Continue `tokens` until the run is finished; yields Decodes, and Events for tokens that stay.

    `pending` are the last tokens of `tokens`, not yet in the session's cache.
    """
    loop = Loop(run, session, tokens, pending, state)
    try:
        return (yield from loop.run())
    finally:
        if state is None:
            run.policy.end(loop.states[0])
        if run.drafter is not None:
            run.drafter.close()


class Loop:
    """The state of one loop: the walk needs too much of it to pass around."""

    def __init__(self, run: Run, session: Session, tokens: list[int], pending: list[int], state: Any) -> None:
        self.r, self.session, self.tokens, self.pending = run, session, tokens, pending
        self.start = self.shown = len(tokens)
        self.sources: list[Source] = []
        # Policy states before each generated token: an exit takes the state back with the cue.
        self.states: list[Any] = [run.policy.start() if state is None else state]
        self.rule = run.rule
        self.layers = run.rule.layers(session.can.layers) if run.rule else ()
        self.reads = run.policy.layers(session.can.layers)
        self.path: list[int] = []
        self.memory: list[Any] = []
        # Forced tokens that wait until the row before them was looked at.
        self.queue: list[int] = []
        self.budget, self.continued = run.lengths.budget, 0
        # Cues at which the exit rule was asked; whether an exit at the last cue found no room.
        self.looks, self.crowded = 0, False
        self.asks, self.finished, self.over = run.policy.needs_forwards, False, False

    def run(self) -> Request:
        self._check_budget()
        while not self.finished:
            draft = yield from self._propose()
            cued = self.layers if self.layers and (self.r.span.at_cue or draft.tokens) else ()
            wanted = tuple(dict.fromkeys(self.reads + cued)) if self.reads else cued
            step = yield Decode(self.session, self.pending, draft, wanted, self.r.clock)
            assert step is not None
            step = CopiedStep(step, len(draft), wanted) if self.asks else step
            self.r.trace.forwards += 1
            self.pending, self.path = [], []
            accepted = yield from self._walk(step, draft)
            self.session.keep(self.path)
            if self.finished and self.pending[:-1]:
                yield Decode(self.session, self.pending[:-1])  # the cache ends before the last token, as always
            if self.r.drafter is not None:
                self.r.trace.accepted += len(accepted)
                self.r.drafter.observe(draft, accepted)
            yield from self._show()
        self._finish()

    def _propose(self) -> Generator[Decode, Step, Draft]:
        drafter, room = self.r.drafter, self.r.limit - len(self.tokens) - 1
        if drafter is None or room < 1 or self.queue or (fits := self.session.can.drafted(len(self.pending))) < 1:
            return NO_DRAFT
        draft = yield from drafter.propose(self.tokens, min(room, fits))
        if self.session.can.branches == 1 and not draft.is_chain():
            draft = draft.first_branch()
        draft = draft if len(draft) <= fits else NO_DRAFT  # whole: a part of what was drawn has another law
        self.r.trace.drafted += len(draft)
        return draft

    def _walk(self, step: Step, draft: Draft) -> Generator[Decode, Step, list[int]]:
        """Sample from the root down while the draft holds the sampled token; the nodes accepted."""
        node, accepted = ROOT, list[int]()
        while True:
            token, child = yield from self._next(step, node, draft)
            cue = self.r.span.push(token)
            early = self._early_close(token)
            if early is None and self.sources[-1] != "forced":
                self.finished = self.r.ends(self.tokens)
            if cue is not None and self.rule is not None and not self.finished:
                ended = yield from self._at_cue(self.rule, cue, step, node)
                child = None if ended else child
            if early is not None and not self.pending:
                self._replace(*early)
            elif not self.finished:
                self._check_budget()
            if self.pending:
                return accepted
            if self.finished or child is None:
                self.pending = [token]
                self._feed()
                return accepted
            self.path.append(child)
            accepted.append(child)
            node = child

    def _next(self, step: Step, node: int, draft: Draft) -> Generator[Decode, Step, tuple[int, int | None]]:
        """The token behind `node`, forced or sampled, and the drafted node that holds it."""
        run = self.r
        if self.queue:
            token = self.queue.pop(0)
            self._append(token)
            return token, None
        drawn, score = draft.proposals.get(node), run.trace.score
        row = Row(step, node, self.tokens, run.span.phase, run.keys, run.frame, score, drawn)
        state = (yield from run.policy.prepare(self.states[-1], row)) if self.asks else self.states[-1]
        state, token = run.policy.step(state, row)
        child = draft.child(node, token) if draft.tokens else None
        self.tokens.append(token)
        self.states.append(state)
        self.sources.append("model" if child is None else "draft")
        run.trace.cost += 1
        return token, child

    def _at_cue(self, rule: ExitRule, cue: Cue, step: Step, node: int) -> Generator[Decode, Step, bool]:
        """Ask the rule; on exit `pending` holds the suffix. True if the walk must end here."""
        run = self.r
        if self.looks >= rule.max_cues:
            run.span.stop_cues()
            self.rule, self.layers = None, ()
            return False
        fitting = fitting_exit(run, rule.suffix, cue, self.looks)
        self.crowded = fitting is None
        if fitting is None:
            return False
        cue, forced = fitting
        self.looks += 1
        hidden = {layer: step.hidden(node, layer).copy() for layer in self.layers}
        if rule.trials:
            # A fork must not see rows that are not committed.
            self._commit()
        at = Boundary(
            cue,
            hidden,
            self.tokens,
            tuple(forced),
            self.start,
            self.session,
            self.memory,
            row=lambda: step.logits(node),
            answer=TrialAnswer(self, decode_loop, cue, forced),
        )
        decision = yield from rule.decide(at)
        run.trace.decisions.append(decision)
        if decision.exit and not run.shadow and self._thought(cue.first) >= run.lengths.min_thinking:
            self._close("exit", cue.first, forced)
        return rule.trials

    def _check_budget(self) -> None:
        """Close thinking once its budget is used up; a half-written marker goes, a character is finished first."""
        run, span, thinking = self.r, self.r.span, self.r.thinking
        if self.budget is None or thinking is None or span.phase != "think":
            return
        over = self._thought(len(self.tokens)) - self.budget
        if over < 0 or (over < LONGEST_CHARACTER - 1 and not span.whole):
            return
        mark = span.half_closed() if self.session.can.rollback else None
        first, before = (mark.first, mark.before) if mark else (len(self.tokens), "")
        forced = run.tokenizer.encode(before + run.lengths.wrap_up + thinking.suffix)
        if first + len(forced) >= run.limit:
            run.trace.note = f"no room for the budget's {len(forced)} closing tokens below the limit of {run.limit}"
            self.budget = None
            return
        self._close("budget", first, forced)

    def _early_close(self, token: int) -> tuple[MarkerPosition, list[int]] | None:
        """Thinking closes in this token, and shouldn't: where, and what goes in the close's place."""
        run, span, mark = self.r, self.r.span, self.r.span.closed
        if run.thinking is not None and mark is not None and run.trace.closed_by in ("exit", "budget"):
            again = run.tokenizer.encode(mark.before + run.thinking.behind)
            return (mark, again) if self.session.can.rollback else None
        if mark is None and token in run.eos and span.phase == "think" and run.lengths.reopens:
            mark = span.end()
        forced = None if mark is None else self._continuation(mark)
        if mark is None or forced is None:
            if span.closed is not None:
                self._note_end("model", span.closed.first)
            return None
        return mark, forced

    def _continuation(self, mark: MarkerPosition) -> list[int] | None:
        """The tokens that continue thinking at `mark`; None if it ends there."""
        run, lengths, thought = self.r, self.r.lengths, self._thought(mark.first)
        early = thought < lengths.min_thinking
        # An exit rule's probe is asked at the continue text's cue; where it can't be asked any more, the close stands.
        asked = run.rule is None or run.shadow or (self.rule is not None and not self.crowded)
        if mark.first < self.start or not (early or (asked and self.continued < lengths.continue_times)):
            return None
        gap = "" if mark.spaced or lengths.continue_text[:1].isspace() else " "
        forced = run.tokenizer.encode(mark.before + gap + lengths.continue_text)
        if mark.first + len(forced) >= run.limit:
            run.trace.note = f"no room to continue by {len(forced)} tokens below the limit of {run.limit}"
            return None
        if self.budget is not None and thought + len(forced) >= self.budget:
            return None
        self.continued += not early
        return forced

    def _replace(self, mark: MarkerPosition, forced: list[int]) -> None:
        """Take a close back and feed `forced` in its place: thinking goes on, or the answer that it stood in."""
        trace, room = self.r.trace, self.r.limit - mark.first
        self._take_back(mark.first)
        self.r.span.rewind(self.tokens)
        self.queue = forced[:room]
        self._feed()
        if trace.closed_by is None:
            trace.reopened.append(mark.first - self.start)
            return
        trace.repeated += 1
        if len(forced) >= room:
            self.finished, trace.finish_reason = True, "length"

    def _close(self, closer: Closer, first: int, forced: list[int]) -> None:
        """End thinking at token `first`, for good."""
        self._take_back(first)
        for token in forced:
            self._append(token)
        self.pending += forced
        self.r.trace.forced = (first - self.start, len(forced))
        self._note_end(closer, first)
        self.r.span.close(len(self.tokens))
        self.rule, self.layers = None, ()

    def _take_back(self, first: int) -> None:
        """The run without its tokens from `first` on; those before that the cache lacks are pending again."""
        self._commit()
        # In a walk that is the token just sampled.
        fed = len(self.tokens) - max(1, len(self.pending))
        self.pending, self.queue = self.tokens[fed:first], []
        if first < fed:
            self.session.rollback(fed - first)
        del self.tokens[first:], self.states[first - self.start + 1 :], self.sources[first - self.start :]

    def _append(self, token: int) -> None:
        self.tokens.append(token)
        self.states.append(self.states[-1])
        self.sources.append("forced")
        self.r.trace.cost += 1

    def _feed(self) -> None:
        """Make queued tokens pending, up to one whose row the exit rule may want."""
        while self.queue and not self.r.span.at_cue:
            token = self.queue.pop(0)
            self._append(token)
            self.r.span.push(token)
            self.pending.append(token)

    def _thought(self, end: int) -> int:
        """Thinking tokens before token `end`."""
        opened = self.r.span.opened
        return end - (self.start if opened is None else opened)

    def _note_end(self, closer: Closer | None, end: int) -> None:
        opened, trace = self.r.span.opened, self.r.trace
        if opened is not None:
            trace.closed_by, trace.thinking = closer, (opened - self.start, end - self.start)

    def _commit(self) -> None:
        self.session.keep(self.path)
        self.path = []

    def _show(self) -> Generator[Event, None, None]:
        safe, trace = len(self.tokens), self.r.trace
        if not self.finished:
            safe -= self.r.held(safe, asked=self.rule is not None, rollback=self.session.can.rollback)
        if trace.closed_by is None:
            self._note_end(None, len(self.tokens) - (self.tokens[-1] in self.r.eos))
        while self.shown < safe:
            event = Event(self.tokens[self.shown], self.sources[self.shown - self.start], self.shown)
            trace.tokens.append(event.token)
            self.shown += 1
            if self.finished and self.shown == len(self.tokens):
                self._finish()  # who has the last token need not ask for more
            try:
                yield event
            except GeneratorExit:
                self._finish()  # stopped by whoever reads: over, with what was shown
                raise

    def _finish(self) -> None:
        """The run is over: once, with the policy's state behind the last token shown."""
        if not self.over:
            self.over = True
            self.r.finish(self.states[self.shown - self.start])
