"""The one decoding loop. It asks for forwards (`yield Decode`) and never makes one.

Prefill, plain steps, verified drafts, exit suffixes and trial answers are all the same request.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import NamedTuple

from ..core.decode import NO_DRAFT, ROOT, Decode, Draft, Session, Step
from ..core.trace import Event
from ..drafting.drafter import Drafting
from ..sampling.draw import CopiedStep, Row
from ..thinking.span import Span
from .close_thinking import Edit, ThinkingControl
from .run import Decoding, RunSettings
from .transcript import Start, Transcript
from .trial import Trials


def decode_loop(settings: RunSettings, session: Session, span: Span, start: Start) -> Decoding:
    """Continue `start.tokens` until the run is finished; yields Decodes, and Events for tokens that stay.

    Args:
        settings: What the run consults; its trace is written.
        session: The sequence whose cache holds the tokens before `start.pending`.
        span: Where the run's thinking stands at the end of `start.tokens`.
        start: The text to continue.
    """
    settings = settings.for_run()
    state = settings.policy.start() if start.state is None else start.state
    loop = Loop(settings, Transcript(session, start, state), span, start)
    try:
        settings.begin()  # one that breaks half-way may have taken its place
        return (yield from loop.run())
    except GeneratorExit:
        loop.finish()  # stopped by the reader: over, with what was shown
        raise
    finally:
        if not loop.over:
            settings.fail()
        if start.state is None:
            settings.policy.end(state)
        if settings.drafter is not None:
            settings.drafter.close()


class Next(NamedTuple):
    """The token after a node, and the drafted node that holds it."""

    token: int
    """Its id; it is in the transcript already."""
    child: int | None
    """None where the draft doesn't hold the token."""


class Loop:
    """Walks over drafts: samples, follows, and applies what thinking control asks for."""

    def __init__(self, settings: RunSettings, text: Transcript, span: Span, start: Start) -> None:
        self.settings = settings
        self.text = text
        self.control = ThinkingControl(settings, text, span, start.closer, Trials(decode_loop, settings, text))
        self.over = False
        """The run's record is complete."""
        self._prepares = settings.policy.needs_forwards
        self._checkpoints = text.session.can.checkpoints
        self._policy_layers = settings.policy.layers(text.session.can.layers)

    def run(self) -> Decoding:
        """Propose, decode, walk, keep, show; until the run is finished."""
        text, settings = self.text, self.settings
        self._apply(self.control.due_close())
        while self.control.finish is None:
            draft = NO_DRAFT if settings.drafter is None else (yield from self._propose(settings.drafter))
            layers = self._layers(draft)
            if self._checkpoints:
                self._checkpoint(draft)
            step = yield Decode(text.session, text.pending, draft, layers, settings.clock)
            assert step is not None
            if self._prepares:
                step = CopiedStep(step, len(draft), layers)
            settings.trace.forwards += 1
            text.begin_walk()
            accepted = yield from self._walk(step, draft)
            text.commit()
            if self.control.finish is not None and text.pending[:-1]:
                yield Decode(text.session, text.pending[:-1])  # the cache ends before the last token, as always
                text.pending = text.pending[-1:]
            if settings.drafter is not None:
                settings.trace.accepted += len(accepted)
                settings.drafter.observe(draft, accepted)
            yield from self._show()
            if self._may_go_on:
                self.settings = self.control.go_on()
        self.finish()
        return self.control.finish

    @property
    def _may_go_on(self) -> bool:
        """Whether the run is at its limit, and its reader may ask for more."""
        return self.control.finish == "length" and self.settings.beyond > 0

    def _propose(self, drafter: Drafting) -> Generator[Decode, Step, Draft]:
        text = self.text
        room = self.settings.limit - len(text.tokens) - 1
        if room < 1 or text.queue:
            return NO_DRAFT
        fits = text.session.can.drafted(len(text.pending))
        if fits < 1:
            return NO_DRAFT
        draft = yield from drafter.propose(text.tokens, min(room, fits))
        if text.session.can.branches == 1 and not draft.is_chain():
            draft = draft.first_branch()
        if len(draft) > fits:
            return NO_DRAFT  # all or nothing: a part of what was drawn has another distribution
        self.settings.trace.drafted += len(draft)
        return draft

    def _checkpoint(self, draft: Draft) -> None:
        """Ask for a checkpoint before a forward after which tokens that it feeds may be taken back.

        Where such a token is in the cache already, the checkpoint before it stays.
        """
        reach = self.control.reach()
        if (reach or draft.tokens) and reach <= len(self.text.pending):
            self.text.session.checkpoint()

    def _layers(self, draft: Draft) -> tuple[int, ...]:
        """Blocks whose output is read from the next forward: the policy's at every row, the exit rule's at a cue."""
        control = self.control
        if not control.layers or not (control.span.at_cue or draft.tokens):
            return self._policy_layers
        return tuple(dict.fromkeys(self._policy_layers + control.layers))

    def _walk(self, step: Step, draft: Draft) -> Generator[Decode, Step, list[int]]:
        """Sample from the root down while the draft holds the sampled token; returns the accepted nodes."""
        text, control = self.text, self.control
        node, accepted = ROOT, list[int]()
        while True:
            token, child = yield from self._next(step, node, draft)
            edit = yield from control.after(token, step, node)
            if edit is not None:
                self._apply(edit)
                return accepted
            if control.finish is not None or child is None or text.committed:
                text.pending = [token]
                self._feed()
                return accepted
            text.path.append(child)
            accepted.append(child)
            node = child

    def _next(self, step: Step, node: int, draft: Draft) -> Generator[Decode, Step, Next]:
        """Append the token after `node`, from the queue or from the policy."""
        text, settings = self.text, self.settings
        settings.trace.cost += 1
        if text.queue:
            token = text.queue.pop(0)
            text.force([token])
            return Next(token, None)
        row = Row(
            step,
            node,
            text.tokens,
            self.control.span.phase,
            settings.keys,
            settings.context,
            self.control.score,
            draft.proposals.get(node),
        )
        state = text.states[-1]
        if self._prepares:
            state = yield from settings.policy.prepare(state, row)
        state, token = settings.policy.step(state, row)
        child = draft.child(node, token) if draft.tokens else None
        text.append(token, state, "model" if child is None else "draft")
        return Next(token, child)

    def _apply(self, edit: Edit | None) -> None:
        """Take tokens back and force others in their place."""
        if edit is None:
            return
        text = self.text
        text.take_back(edit.first)
        self.control.applied(edit)
        if edit.closer is None:
            text.queue = edit.forced[: self.settings.limit - edit.first]
            self._feed()
            return
        text.force(edit.forced)
        text.pending += edit.forced
        self.settings.trace.cost += len(edit.forced)

    def _feed(self) -> None:
        """Make queued tokens pending, up to one whose row the exit rule may want."""
        text, span = self.text, self.control.span
        while text.queue and not span.at_cue:
            token = text.queue.pop(0)
            text.force([token])
            text.pending.append(token)
            span.push(token)
            self.settings.trace.cost += 1

    def _show(self) -> Generator[Event, None, None]:
        """Give out the tokens that can no longer be taken back."""
        text, control = self.text, self.control
        trace = self.settings.trace
        safe = len(text.tokens) - (control.held() if control.finish is None else 0)
        control.record()
        while text.shown < safe:
            event = Event(text.tokens[text.shown], text.sources[text.shown - text.start], text.shown)
            trace.tokens.append(event.token)
            trace.sources.append(event.source)
            text.shown += 1
            if control.finish is not None and text.shown == len(text.tokens) and not self._may_go_on:
                self.finish()  # who has the last token need not ask for more
            yield event

    def finish(self) -> None:
        """End the run, once, with the policy's state after the last token shown."""
        if not self.over:
            self.over = True
            if self.text.shown == len(self.text.tokens) and self.control.finish is not None:
                self.settings.trace.finish_reason = self.control.finish
            if self.settings.turn is not None:
                self.settings.turn.thinking_tokens += self.control.thoughts.total
            self.settings.finish(self.text.state_before(self.text.shown))
