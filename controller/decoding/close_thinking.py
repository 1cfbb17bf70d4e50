"""Decides once per token whether thinking closes, continues, or stays as it is.

Combines a run's exit rule, its limits of thinking and the model's closing markers. It changes no text: it answers with
at most one `Edit`, and the loop applies it.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any

from ..core.decode import Decode, Step
from ..core.token_text import LONGEST_CHARACTER
from ..core.trace import Closer, Finish
from ..thinking.answer_end import AnswerEnd, Closing
from ..thinking.cues import Cue
from ..thinking.exit_form import exit_place, exit_text
from ..thinking.exit_rule import Boundary, ExitRule, Trial
from ..thinking.span import MarkerPosition, Span
from .due import Limits
from .run import RunSettings
from .thoughts import Thoughts
from .transcript import Transcript
from .trial import Exit, Trials


@dataclass(frozen=True)
class Edit:
    """What changes in a run's text: the tokens from `first` on are taken back, and `forced` takes their place."""

    first: int
    """Absolute index; the text's length where nothing is taken back."""
    forced: list[int]
    """The tokens that take their place."""
    closer: Closer | None = None
    """Who closes thinking with it; None where a closing marker of the model's own is taken back, or none is written."""
    warns: bool = False
    """It takes nothing back, and warns of the budget's end."""


BY = {
    "budget": "the budget's",
    "time": "thinking_seconds'",
    "asked": "answer_now's",
    "loop": "stop_loops'",
    "end": "always_answer's",
}
"""Whose closing tokens a note speaks of."""


class ThinkingControl:
    """Follows a run's thinking span and gives the edit, if any, after each token."""

    def __init__(
        self, settings: RunSettings, text: Transcript, span: Span, closer: Closer | None, trials: Trials
    ) -> None:
        self.settings = settings
        self.text = text
        self.span = span
        self.closer = closer
        """Who closed the last span; None while it is open, or never was."""
        self.finish: Finish | None = None
        """Why the run is over."""
        self.score: float | None = None
        """What the exit rule said at the last cue."""
        self.rule = settings.rule
        """The exit rule while it may still be asked."""
        self.layers = self.rule.layers(text.session.can.layers) if self.rule and self.rule.reads else ()
        """Blocks whose output the rule reads at a cue."""
        self._answer = self._new_answer() if closer == "exit" else None
        """Follows the answer after an exit. None: there was none."""
        self._limits = Limits(settings)
        self._limited = settings.limits.closes
        """Thinking may be closed without being asked to."""
        self._may_close = settings.limits.any or settings.answer_now is not None
        """A closing marker may be taken back, whoever closed thinking."""
        self._continued = 0
        self._cues = 0
        """Cues at which the rule was asked."""
        self._no_room = False
        """The last exit had no room."""
        self._would_exit = False
        """The rule wanted an exit that wasn't made."""
        self._memory: list[Any] = []
        self._warned = False
        self._trials = trials
        self.thoughts = Thoughts(
            settings.trace, span, text.start, each=settings.limits.budget_per == "span", spent=settings.spent_before
        )
        self._rolls_back = text.session.can.rollback
        self.thoughts.follow()
        self._publish()

    def after(self, token: int, step: Step, node: int) -> Generator[Decode, Step, Edit | None]:
        """Decide after the text's last token; sets `finish` where the run is over.

        An exit comes before the model's own close, and that before a request and the budget.

        Args:
            token: The text's last token.
            step: The forward that it was drawn from.
            node: The node whose row it was drawn from.

        Returns:
            The edit to apply; None to go on. It may ask for forwards on a fork before that.
        """
        cue = self.span.push(token)
        if self.thoughts.follow() and self.closer is not None:
            self._opened_again()
        self._note_unopened()
        edit = self._early_close(token)
        if edit is None and self.text.sources[-1] != "forced":
            answered = self._answer is not None and self.span.phase == "answer" and self._answer.push(token)
            self.finish = "stop" if answered else self.settings.ends(self.text.tokens, self.text.own_from)
        if cue is not None and self.rule is not None and self._may_exit(self.rule):
            made = yield from self._ask(self.rule, cue, step, node)
            self.finish = None if made else self.finish
            edit = made or edit
        if edit is None and self.finish is None:
            edit = self.due_close() or self._warning()
        self._publish()
        return edit

    def due_close(self) -> Edit | None:
        """The edit that closes thinking once somebody has asked for it, its budget is used up, or it is in a loop.

        A half-written marker is taken back. A character that is split over tokens is finished first."""
        if self.span.phase != "think" or not (self._limited or self._limits.asked) or self.settings.thinking is None:
            return None
        tokens, opened = self.text.tokens, self.text.start if self.span.opened is None else self.span.opened
        thought = self.thoughts.before(len(tokens))
        due = self._limits.due(thought, tokens, opened)
        if due is None or (thought - due.since < LONGEST_CHARACTER - 1 and not self.span.whole):
            return None
        return self._close(due.closer, len(tokens))

    def _close(self, closer: Closer, length: int) -> Edit | None:
        """The edit that closes thinking at token `length`, or at a half-written marker before it; None without room."""
        settings = self.settings
        assert settings.thinking is not None
        mark = self.span.half_closed() if self._rolls_back else None
        first = mark.first if mark else length
        before = mark.before if mark else ""
        forced = settings.tokenizer.encode(before + settings.limits.wrap_up + settings.thinking.suffix)
        if first + len(forced) >= settings.limit:
            settings.trace.note = (
                f"no room for {BY[closer]} {len(forced)} closing tokens below the limit of {settings.limit}"
            )
            self._limits.refused()
            return None
        return Edit(first, forced, closer)

    def _warning(self) -> Edit | None:
        """The edit that warns of the budget's end; None where that isn't near.

        It waits for the end of a character, and until no marker is half-written."""
        if self.settings.limits.warn_before is None or self.span.phase != "think":
            return None
        settings, tokens = self.settings, self.text.tokens
        thought = self.thoughts.before(len(tokens))
        if not self._limits.warns(thought):
            return None
        if not self.span.whole or self.span.half_closed() is not None:
            return None
        self._limits.warned()
        forced = settings.tokenizer.encode(settings.limits.warning)
        assert settings.budget is not None
        if thought + len(forced) >= settings.budget or len(tokens) + len(forced) >= settings.limit:
            settings.trace.warnings.append(f"no room for the warning's {len(forced)} tokens: warn_before is too small")
            return None
        return Edit(len(tokens), forced, warns=True)

    def go_on(self) -> RunSettings:
        """Lift the limit for a reader that asks for more. Returns the settings that hold from now on."""
        self.settings.trace.finish_reason = self.finish  # for a reader that leaves before the run ends again
        self.settings = self.settings.past_limit()
        self.finish = None
        return self.settings

    def applied(self, edit: Edit) -> None:
        """The text from `edit.first` on was taken back: the span, the rule and the record follow."""
        trace = self.settings.trace
        if edit.closer == "exit" or self._answer is not None:
            self._answer = self._new_answer()
        if edit.closer is not None:
            if edit.closer == "asked" and self.settings.rule is not None:
                trace.not_promised("thinking was closed on request")
            self._note_end(edit.closer, edit.first, len(edit.forced))
            self.span.close(edit.first + len(edit.forced))
            if edit.closer == "exit" or (self.rule is not None and not self.rule.later_spans):
                self._retire()
            self._publish()
            return
        if edit.warns:
            trace.warned.append(edit.first - self.text.start)
            return
        self.span.rewind(self.text.tokens)
        self._limits.rewound(self.text.tokens)
        self._publish()
        if self.closer is None:
            trace.reopened.append(edit.first - self.text.start)
            return
        trace.repeated += 1
        if len(edit.forced) >= self.settings.limit - edit.first:
            self.finish = "length"

    def held(self) -> int:
        """How many of the last tokens may still be taken back."""
        return self._reach(self.rule is not None and not self.settings.shadow)

    def reach(self) -> int:
        """How many of the last tokens a rollback may reach back over, be it that of a trial's fork."""
        return self._reach(self.rule is not None)

    def _reach(self, exits: bool) -> int:
        """How many of the last tokens exits and closes may take back; False: closes alone."""
        held = self.span.held() if exits else 0
        if self.closer == "model" or not (self.closer or self._may_close) or not self._rolls_back:
            return held
        return max(held, self.span.closing())

    def record(self) -> None:
        """Write into the trace how far an open thinking span has come."""
        if self.closer is None:
            tokens = self.text.tokens
            self._note_end(None, len(tokens) - (tokens[-1] in self.settings.eos))

    def _ask(self, rule: ExitRule, cue: Cue, step: Step, node: int) -> Generator[Decode, Step, Edit | None]:
        """Ask the rule about a cue; the exit, if it is to be made."""
        settings = self.settings
        if self._cues >= rule.max_cues:
            self._retire()
            return None
        found = self._fitting_exit(rule, cue)
        self._no_room = found is None
        if found is None:
            return None
        self._cues += 1
        boundary = self._boundary(found, step, node)
        try:
            decision = yield from rule.decide(boundary)
        finally:
            self._trials.close()
        settings.trace.decisions.append(decision)
        self.score = None if math.isnan(decision.score) else decision.score
        acts = decision.exit and not settings.shadow and not decision.held
        if not acts or self.thoughts.before(found.first) < settings.limits.min_thinking:
            if decision.exit and not self._would_exit:
                self._would_exit, settings.trace.would_exit_at = True, found.first - self.text.start
            if decision.held == "audit":
                self._retire()  # without the audit it would have been the last to be asked
            return None
        return Edit(found.first, found.forced, "exit")

    def _may_exit(self, rule: ExitRule) -> bool:
        """Whether the token after a cue lets the run exit. A rule that decides without that token knows of no end."""
        return self.finish is None or (self.finish == "stop" and rule.form == "append-open")

    def _boundary(self, found: Exit, step: Step, node: int) -> Boundary:
        """What the rule is given at a cue."""
        text = self.text

        def answer(
            longest: int, cue: Cue | None = None, closing: Closing | None = None
        ) -> Generator[Decode, Step, Trial]:
            return self._trials.attempt(self._exit_at(closing or found.closing, cue or found.cue), longest)

        return Boundary(
            cue=found.cue,
            hidden={layer: step.hidden(node, layer).copy() for layer in self.layers},
            tokens=text.tokens,
            forced=tuple(found.forced),
            prompt=text.start,
            session=text.session,
            memory=self._memory,
            row=lambda: step.logits(node),
            answer=answer,
        )

    def _fitting_exit(self, rule: ExitRule, cue: Cue) -> Exit | None:
        """The first cue of a row whose exit has room below the limit.

        Each cue is considered by itself: what a rule may act on depends on no cue that it doesn't read.
        """
        exits = [self._exit_at(rule.closing, one) for one in (cue, *cue.also)]
        fitting = [one for one in exits if one.first + len(one.forced) < self.settings.limit]
        if not fitting:
            self.settings.trace.note = (
                f"no room for the exit's {len(exits[0].forced)} tokens below the limit of {self.settings.limit}"
            )
            return None
        first, *others = fitting
        return replace(first, cue=replace(first.cue, index=self._cues, also=tuple(one.cue for one in others)))

    def _exit_at(self, closing: Closing, cue: Cue) -> Exit:
        assert self.settings.rule is not None
        form = self.settings.rule.form
        first = exit_place(form, cue)
        # An exit after the token that follows the cue would be another exit, with a risk that nobody measured.
        assert first < len(self.text.tokens), "an exit drops the token after its cue"
        return Exit(cue, first, self.settings.tokenizer.encode(exit_text(form, cue, closing.suffix)), closing)

    def _new_answer(self) -> AnswerEnd:
        rule, settings = self.settings.rule, self.settings
        return AnswerEnd(settings.tokenizer, settings.answer_ends if rule is None else rule.answer_ends)

    def _early_close(self, token: int) -> Edit | None:
        """The edit that replaces a close of the model's own in this token; None where the close stands."""
        settings, mark = self.settings, self.span.closed
        if mark is None and token not in settings.eos:
            return None
        if settings.thinking is not None and mark is not None and self.closer not in (None, "model"):
            if settings.thinking.ends_messages:
                return None
            again = settings.tokenizer.encode(mark.before + settings.thinking.after_close)
            return Edit(mark.first, again) if self._rolls_back else None
        ended = token in settings.eos and self.span.phase == "think"
        if mark is None and ended and settings.limits.reopens:
            mark = self.span.end()
        forced = None if mark is None else self._continuation(mark)
        if mark is not None and forced is not None:
            return Edit(mark.first, forced)
        if self.span.closed is not None:
            self._note_end("model", self.span.closed.first)
            return None
        return self._close_at_end() if ended and not self._limits.no_room else None

    def _close_at_end(self) -> Edit | None:
        """The edit that closes thinking in place of the end-of-sequence that the text ends in; None: the run ends."""
        marked = self.settings.thinking is not None and self.settings.thinking.markers is not None
        if not self._limits.asked and not (self.settings.limits.always_answer and marked):
            return None
        before = self.text.tokens[:-1]
        self.span.rewind(before)
        return self._close("asked" if self._limits.asked else "end", len(before))

    def _continuation(self, mark: MarkerPosition) -> list[int] | None:
        """The tokens that continue thinking at `mark`; None if it ends there."""
        settings, limits = self.settings, self.settings.limits
        thought = self.thoughts.before(mark.first)
        early = thought < limits.min_thinking
        # With an exit rule the continue text ends in a cue, where the probe decides. Without room, thinking ends.
        decides = settings.rule is None or settings.shadow or (self.rule is not None and not self._no_room)
        again = decides and self._continued < limits.continue_times
        if mark.first < self.text.start or not (early or again) or self._limits.asked or self._limits.time_is_up():
            return None
        gap = "" if mark.spaced or limits.continue_text[:1].isspace() else " "
        forced = settings.tokenizer.encode(mark.before + gap + limits.continue_text)
        if mark.first + len(forced) >= settings.limit:
            settings.trace.note = f"no room to continue by {len(forced)} tokens below the limit of {settings.limit}"
            return None
        if self._limits.used_up(thought + len(forced)):
            return None
        if not early:
            self._continued += 1
        return forced

    def _note_unopened(self) -> None:
        """Warn, once a run, of thoughts that were not seen as such: the model closed what nothing had opened."""
        thinking = self.settings.thinking
        if self._warned or not self.span.unopened or thinking is None or thinking.ends_messages:
            return
        self._warned = True
        assert thinking.markers is not None
        self.settings.trace.warnings.append(
            f"the model wrote {thinking.markers.close!r} and nothing had opened thinking, so what stands before it "
            "was not limited; if the model thinks from its first token, give thinking=Thinking(..., opens='start')"
        )

    def _publish(self) -> None:
        """Let who may ask for the answer know whether thinking is open."""
        if self.settings.answer_now is not None:
            self.settings.answer_now.thinking = self.span.phase == "think" and self.finish is None

    def _retire(self) -> None:
        """The exit rule is asked no more."""
        self.rule = None
        self.layers = ()
        self.span.stop_cues()

    def _opened_again(self) -> None:
        """A further span has opened, in the answer."""
        self.closer = None
        self._limits.over()
        self._answer = self._answer and self._new_answer()
        if self.rule is not None and not self.rule.later_spans:
            self._retire()

    def _note_end(self, closer: Closer | None, end: int, forced: int = 0) -> None:
        """The span ends before token `end`; closer None: so far. forced: tokens that close it for the model."""
        if self.span.opened is not None:
            self.closer = closer
            self.thoughts.ended(closer, end, forced)
